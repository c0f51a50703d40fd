//! Whether a block is the chain's, by the words of all the nodes that are asked. docs/evidence-format.md section 6.

use alloy_primitives::B256;
use futures_util::future::join_all;

use super::{Rpc, RpcError};

/// Where a node does not say which height is final: what is so far below the newest is taken for it.
const DEPTH: u64 = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canonical {
    pub finding: Finding,
    /// The same for a block that was final once: only a node that holds another one for final speaks against it.
    pub of_final: Finding,
    /// What each node said, in their order, for a person.
    pub said: Vec<Said>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A node has this block, and it is final; no other says otherwise.
    Final,
    /// A node has this block, and no node says that it is final; none says otherwise.
    NotFinal,
    /// A node has another block of that height, and none has this one.
    Another,
    /// Some have this block and some another.
    Contradiction,
    /// None says anything of it.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub rpc: String,
    pub text: String,
}

/// What one node says of the block.
enum Word {
    /// And up to which height all is final, if it says so.
    Has {
        height_final: Result<Height, RpcError>,
    },
    HasAnother {
        found: B256,
        height_final: Result<Height, RpcError>,
    },
    HasNone {
        newest: u64,
    },
    OtherChain(u64),
    Error(RpcError),
}

/// Up to which height a node holds all for final.
enum Height {
    Told(u64),
    /// It knows no such tag.
    ByDepth {
        newest: u64,
    },
}

impl Height {
    fn reaches(&self, height: u64) -> bool {
        match self {
            Self::Told(up_to) => height <= *up_to,
            Self::ByDepth { newest } => final_height(None, *newest).is_some_and(|up_to| height <= up_to),
        }
    }
}

/// Up to which height all is final for a node that says so, or does not, and has this newest one.
pub fn final_height(told: Option<u64>, newest: u64) -> Option<u64> {
    told.or_else(|| newest.checked_sub(DEPTH))
}

/// Asks all of them at once.
pub async fn canonical(rpcs: &[Rpc], chain_id: u64, height: u64, hash: B256) -> Canonical {
    let words = join_all(rpcs.iter().map(|rpc| word(rpc, chain_id, height, hash))).await;
    let said = rpcs
        .iter()
        .zip(&words)
        .map(|(rpc, word)| Said { rpc: rpc.name().to_owned(), text: word.text(chain_id, height) });
    let said = said.collect();
    Canonical { finding: finding(&words, height), of_final: finding_of_final(&words, height), said }
}

fn finding(words: &[Word], height: u64) -> Finding {
    found(words, height, words.iter().any(|word| matches!(word, Word::HasAnother { .. })))
}

fn finding_of_final(words: &[Word], height: u64) -> Finding {
    let is_against =
        |word: &Word| matches!(word, Word::HasAnother { height_final: Ok(up_to), .. } if up_to.reaches(height));
    found(words, height, words.iter().any(is_against))
}

fn found(words: &[Word], height: u64, has_another: bool) -> Finding {
    let has = words.iter().any(|word| matches!(word, Word::Has { .. }));
    let is_final = |word: &Word| matches!(word, Word::Has { height_final: Ok(up_to) } if up_to.reaches(height));
    match (has, has_another) {
        (true, true) => Finding::Contradiction,
        (false, true) => Finding::Another,
        (true, false) if words.iter().any(is_final) => Finding::Final,
        (true, false) => Finding::NotFinal,
        (false, false) => Finding::Unknown,
    }
}

async fn word(rpc: &Rpc, chain_id: u64, height: u64, hash: B256) -> Word {
    asked(rpc, chain_id, height, hash).await.unwrap_or_else(Word::Error)
}

async fn asked(rpc: &Rpc, chain_id: u64, height: u64, hash: B256) -> Result<Word, RpcError> {
    let id = rpc.chain_id().await?;
    if id != chain_id {
        return Ok(Word::OtherChain(id));
    }
    // What is final is asked first: the block found after that was there when it was said. Where it cannot be had, that the
    // node has the block still speaks against another that has not.
    let height_final = height_final(rpc).await;
    Ok(match rpc.hash_at(height).await? {
        Some(found) if found == hash => Word::Has { height_final },
        Some(found) => Word::HasAnother { found, height_final },
        None => Word::HasNone { newest: rpc.head().await?.height },
    })
}

async fn height_final(rpc: &Rpc) -> Result<Height, RpcError> {
    Ok(match rpc.finalized().await? {
        Some(up_to) => Height::Told(up_to),
        None => Height::ByDepth { newest: rpc.head().await?.height },
    })
}

impl Word {
    fn text(&self, chain_id: u64, height: u64) -> String {
        match self {
            Self::Has { height_final: Err(error) } => {
                format!("has this block at height {height}, and does not say whether it is final: {error}")
            }
            Self::Has { height_final: Ok(height_final) } => {
                let is_final = if height_final.reaches(height) { "which is final" } else { "which is not final yet" };
                let how = match height_final {
                    Height::Told(up_to) => format!("all up to {up_to} is"),
                    Height::ByDepth { newest } => {
                        format!("the newest is {newest}; it does not say what is final, so what is {DEPTH} below is")
                    }
                };
                format!("has this block at height {height}, {is_final} ({how})")
            }
            Self::HasAnother { found, .. } => format!("has another block at height {height}: {found}"),
            Self::HasNone { newest } => format!("has no block at height {height} (the newest is {newest})"),
            Self::OtherChain(id) => format!("is of chain {id}, not {chain_id}"),
            Self::Error(error) => error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEIGHT: u64 = 1_000;

    fn told(up_to: u64) -> Word {
        Word::Has { height_final: Ok(Height::Told(up_to)) }
    }

    fn deep(newest: u64) -> Word {
        Word::Has { height_final: Ok(Height::ByDepth { newest }) }
    }

    fn error() -> RpcError {
        RpcError::Unreachable { rpc: "http://node".to_owned(), why: "is silent".to_owned() }
    }

    fn against(up_to: u64) -> Word {
        Word::HasAnother { found: B256::ZERO, height_final: Ok(Height::Told(up_to)) }
    }

    fn silent() -> Word {
        Word::Error(error())
    }

    fn stumbles() -> Word {
        Word::Has { height_final: Err(error()) }
    }

    #[test]
    fn one_word_suffices_if_none_says_otherwise() {
        let another = || against(0);
        let none = || Word::HasNone { newest: 9 };
        for (words, found) in [
            (vec![], Finding::Unknown),
            (vec![told(HEIGHT)], Finding::Final),
            (vec![told(HEIGHT - 1)], Finding::NotFinal),
            (vec![deep(HEIGHT + 256)], Finding::Final),
            (vec![deep(HEIGHT + 255)], Finding::NotFinal),
            (vec![deep(0)], Finding::NotFinal),
            (vec![silent(), told(HEIGHT), none(), Word::OtherChain(1)], Finding::Final),
            (vec![told(0), deep(HEIGHT + 300)], Finding::Final),
            (vec![told(HEIGHT), another()], Finding::Contradiction),
            (vec![another(), told(0)], Finding::Contradiction),
            (vec![stumbles()], Finding::NotFinal),
            (vec![stumbles(), told(HEIGHT)], Finding::Final),
            (vec![stumbles(), another()], Finding::Contradiction),
            (vec![another(), none(), silent()], Finding::Another),
            (vec![none(), silent(), Word::OtherChain(1)], Finding::Unknown),
        ] {
            assert_eq!(finding(&words, HEIGHT), found);
        }
        assert_eq!(finding(&[deep(u64::MAX)], u64::MAX), Finding::NotFinal);
    }

    #[test]
    fn what_was_final_stands_against_words_that_are_not() {
        for (words, found) in [
            (vec![against(HEIGHT - 1)], Finding::Unknown),
            (vec![against(HEIGHT - 1), told(HEIGHT)], Finding::Final),
            (vec![against(HEIGHT)], Finding::Another),
            (vec![against(HEIGHT), told(0)], Finding::Contradiction),
            (vec![against(HEIGHT - 1), silent()], Finding::Unknown),
        ] {
            assert_eq!(finding_of_final(&words, HEIGHT), found);
        }
    }
}
