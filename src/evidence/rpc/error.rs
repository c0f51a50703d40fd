//! What can go wrong with a node, by what the caller can do about it.

/// No text bears the path of an address, which may be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// It does not answer, or has no time for us: ask another, or again later.
    #[error("{rpc} {why}")]
    Unreachable { rpc: String, why: String },
    /// It answers that it will not. What its words mean differs from node to node: look up what came of it.
    #[error("{rpc} refuses {method}: {message} ({code})")]
    Refused { rpc: String, method: &'static str, code: i64, message: String },
    /// It answers what cannot be: it is no node, a broken one, or one that lies.
    #[error("{rpc} answers {method} wrongly: {why}")]
    Malformed { rpc: String, method: &'static str, why: String },
}
