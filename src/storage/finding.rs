//! What `goguerrilla check` and the log at start tell an administrator.

use std::fmt;

/// One thing found, with its cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    is_error: bool,
    text: String,
}

impl Finding {
    /// Keeps the server from starting or from saving mail.
    pub fn error(text: String) -> Finding {
        let is_error = true;
        Finding { is_error, text }
    }

    /// Stops nothing now.
    pub fn warning(text: String) -> Finding {
        let is_error = false;
        Finding { is_error, text }
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        self.is_error
    }

    /// What was found, and its cure.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_error { "error" } else { "warning" };
        write!(f, "{kind}: {}", self.text)
    }
}
