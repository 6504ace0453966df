//! The text of an error together with the texts of its causes.

use std::error::Error;
use std::iter;

/// Returns the text of `error`, followed by `: ` and the text of each cause that the text does not contain yet.
///
/// Some libraries give a general text such as `db error` and the reason only in [`Error::source`]; others repeat the text of
/// the source in their own. With this function each cause is in the text once.
pub fn display_with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let causes = iter::successors(error.source(), |cause| (*cause).source());
    for cause in causes.take(MAX_CAUSES) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Maximum number of causes in a text; further ones are left out, because a faulty `source` may return an endless chain.
const MAX_CAUSES: usize = 16;

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct ErrorWithSource(&'static str, Option<Box<ErrorWithSource>>);

    impl fmt::Display for ErrorWithSource {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for ErrorWithSource {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|layer| layer as &dyn Error)
        }
    }

    /// Returns an error with these texts, from the outermost to the deepest.
    fn error_with_nested_causes(texts: &[&'static str]) -> ErrorWithSource {
        let (first, rest) = texts.split_first().unwrap();
        let source = (!rest.is_empty()).then(|| Box::new(error_with_nested_causes(rest)));
        ErrorWithSource(first, source)
    }

    #[test]
    fn each_cause_is_in_the_text_once() {
        for (texts, want) in [
            (&["db error"][..], "db error"),
            (&["db error", "refused"], "db error: refused"),
            (&["db error: refused", "refused"], "db error: refused"),
            (
                &["cannot open: denied; fix it", "denied", "os"],
                "cannot open: denied; fix it: os",
            ),
            (&["a", "b", "a: b", "c"], "a: b: c"),
            (&["a", "", "b"], "a: b"),
        ] {
            assert_eq!(display_with_causes(&error_with_nested_causes(texts)), want);
        }
    }

    #[test]
    fn endless_chain_ends() {
        #[derive(Debug)]
        struct ErrorThatIsItsOwnSource;
        impl fmt::Display for ErrorThatIsItsOwnSource {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("x")
            }
        }
        impl Error for ErrorThatIsItsOwnSource {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&ErrorThatIsItsOwnSource)
            }
        }
        assert_eq!(display_with_causes(&ErrorThatIsItsOwnSource), "x");
    }
}
