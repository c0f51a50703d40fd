// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Writes checkpoints of evidence logs to the chain
/// @notice Whoever calls it states under their own account that a log had this size and root. The contract judges
/// nothing of that, keeps nothing, has no owner, takes no coins, and can be neither changed nor stopped.
contract EvidenceAnchor {
    /// @notice An account stated the size and root of a log.
    /// @param by The account that stated it
    /// @param origin SHA-256 of the log's origin line, without line feed
    /// @param size How many entries the log had
    /// @param root The root of the Merkle tree (RFC 6962) over these entries
    event Anchored(address indexed by, bytes32 indexed origin, uint64 size, bytes32 root);

    /// @notice States the size and root of a log.
    /// @param origin SHA-256 of the log's origin line, without line feed
    /// @param size How many entries the log has
    /// @param root The root of the Merkle tree (RFC 6962) over these entries
    function anchor(bytes32 origin, uint64 size, bytes32 root) external {
        emit Anchored(msg.sender, origin, size, root);
    }
}
