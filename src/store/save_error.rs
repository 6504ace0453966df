//! The error of a store that did not save a mail.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Why a mail was not saved. The client always gets 4xx and tries again; the text is for the server's log.
///
/// [`unavailable`](SaveError::unavailable), [`full`](SaveError::full) and [`refused`](SaveError::refused) make an error from a
/// text or from another error. `?` converts an [`io::Error`]. The log line contains the text of the cause and of its sources.
///
/// ```
/// use goguerrilla::SaveError;
///
/// let error = SaveError::unavailable("the archive is read-only");
/// assert_eq!(error.to_string(), "the archive is read-only");
/// let error = SaveError::from(std::io::Error::from(std::io::ErrorKind::StorageFull));
/// assert!(matches!(error, SaveError::Full(_)));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SaveError {
    /// The store cannot save mail now: 451 4.3.0, after GM_HOLD_SECONDS of further attempts.
    Unavailable(SaveErrorCause),
    /// The store has no space or memory left now: 452 4.3.1.
    Full(SaveErrorCause),
    /// The store rejects this mail, but may save others: 451 4.3.0. This error alone does not make the store unavailable.
    Refused(SaveErrorCause),
}

/// The cause of a [`SaveError`]: an error that is shared by all mails of a batch. Its text is the text of that error.
#[derive(Clone)]
pub struct SaveErrorCause {
    error: Arc<dyn Error + Send + Sync>,
}

impl SaveError {
    /// Returns an error that says that the store cannot save mail now; the client gets 451 if the store is still unavailable
    /// after GM_HOLD_SECONDS.
    ///
    /// `cause` is a text or an error.
    pub fn unavailable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> SaveError {
        SaveError::Unavailable(SaveErrorCause::new(cause))
    }

    /// Returns an error that says that the store has no space or memory left now; the client gets 452.
    ///
    /// `cause` is a text or an error.
    pub fn full(cause: impl Into<Box<dyn Error + Send + Sync>>) -> SaveError {
        SaveError::Full(SaveErrorCause::new(cause))
    }

    /// Returns an error that says that the store rejects this mail, but may save others; the client gets 451.
    ///
    /// `cause` is a text or an error.
    pub fn refused(cause: impl Into<Box<dyn Error + Send + Sync>>) -> SaveError {
        SaveError::Refused(SaveErrorCause::new(cause))
    }

    /// Returns the cause of the error.
    pub fn cause(&self) -> &SaveErrorCause {
        match self {
            SaveError::Unavailable(cause) | SaveError::Full(cause) | SaveError::Refused(cause) => {
                cause
            }
        }
    }
}

/// The cause of an error of a store that another program has locked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct StoreLocked(String);

/// The cause of an error after which it is unknown whether the mails are stored.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct OutcomeUnknown(String);

#[cfg_attr(
    not(feature = "sqlite"),
    allow(dead_code, reason = "only the SQLite store makes both errors")
)]
impl SaveError {
    /// Returns an error that says that another program has locked the store.
    pub(crate) fn store_locked(text: String) -> SaveError {
        SaveError::unavailable(StoreLocked(text))
    }

    /// Returns `error`, marked: it is unknown whether the mails are stored, so the writer does not try again.
    pub(crate) fn with_unknown_outcome(error: &SaveError) -> SaveError {
        SaveError::unavailable(OutcomeUnknown(error.to_string()))
    }
}

impl SaveError {
    /// Returns whether another program has locked the store.
    pub(crate) fn is_store_locked(&self) -> bool {
        self.cause().get_ref().is::<StoreLocked>()
    }

    /// Returns whether the writer may pass the mail to the store again: the store is unavailable, and the mail is certainly not
    /// stored.
    pub(crate) fn may_be_tried_again(&self) -> bool {
        matches!(self, SaveError::Unavailable(_))
            && !self.is_store_panic()
            && self.commit_in_doubt().is_none()
            && !self.cause().get_ref().is::<OutcomeUnknown>()
    }
}

impl SaveErrorCause {
    fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> SaveErrorCause {
        let error = Arc::from(cause.into());
        SaveErrorCause { error }
    }

    /// Returns the error with which the [`SaveError`] was made, for example to downcast it.
    pub fn get_ref(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.error
    }
}

impl fmt::Display for SaveErrorCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl fmt::Debug for SaveErrorCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)
    }
}

impl fmt::Display for SaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.cause(), f)
    }
}

impl Error for SaveError {
    /// Returns the source of the cause. The cause itself is not a source, because its text is already the text of this error.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause().error.source()
    }
}

impl From<io::Error> for SaveError {
    /// Returns [`SaveError::Full`] if no space, quota or memory is left or the file is too large, else
    /// [`SaveError::Unavailable`].
    fn from(error: io::Error) -> SaveError {
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::OutOfMemory => SaveError::full(error),
            _ => SaveError::unavailable(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_chain::display_with_causes;

    #[derive(Debug, thiserror::Error)]
    #[error("db error")]
    struct TestErrorWithSource(#[source] io::Error);

    #[test]
    fn error_without_space_or_memory_is_full_and_every_other_is_unavailable() {
        for (errno, is_full) in [
            (nix::libc::ENOSPC, true),
            (nix::libc::EDQUOT, true),
            (nix::libc::EFBIG, true),
            (nix::libc::ENOMEM, true),
            (nix::libc::EACCES, false),
            (nix::libc::EROFS, false),
            (nix::libc::EIO, false),
        ] {
            let error = SaveError::from(io::Error::from_raw_os_error(errno));
            assert_eq!(matches!(error, SaveError::Full(_)), is_full, "{error}");
            assert_eq!(
                matches!(error, SaveError::Unavailable(_)),
                !is_full,
                "{error}"
            );
        }
    }

    #[test]
    fn question_mark_converts_an_io_error() {
        fn save() -> Result<(), SaveError> {
            Err(io::Error::other("no archive"))?;
            Ok(())
        }
        assert_eq!(save().unwrap_err().to_string(), "no archive");
    }

    #[test]
    fn chain_of_an_error_contains_each_cause_once() {
        let deepest = io::Error::from(io::ErrorKind::ConnectionRefused);
        let text = format!("db error: {deepest}");
        let error = SaveError::unavailable(TestErrorWithSource(deepest));
        assert_eq!(error.to_string(), "db error");
        let clone = error.clone();
        assert_eq!(display_with_causes(&clone), text);
        assert!(clone.cause().get_ref().is::<TestErrorWithSource>());
        let mut chain = vec![error.to_string()];
        let mut source = error.source();
        while let Some(cause) = source {
            chain.push(cause.to_string());
            source = cause.source();
        }
        assert_eq!(chain.join(": "), text);
    }

    #[test]
    fn cause_is_a_text_or_an_error() {
        let owned = String::from("owned");
        assert_eq!(SaveError::refused(owned).to_string(), "owned");
        let error = SaveError::full("borrowed");
        assert_eq!(display_with_causes(&error), "borrowed");
        assert!(error.source().is_none());
        assert_eq!(format!("{error:?}"), "Full(\"borrowed\")");
    }
}
