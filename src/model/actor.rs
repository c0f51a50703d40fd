//! Who does something, for the record.

/// Who wants something, for the record.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Actor {
    /// `admin` or `viewer` for a session, the token's name, or the user of this machine.
    pub name: String,
    /// Where a request came from; absent for a command.
    pub source: Option<String>,
}

impl Actor {
    /// Somebody at this machine.
    pub fn here(name: &str) -> Self {
        Self { name: name.to_owned(), source: None }
    }
}
