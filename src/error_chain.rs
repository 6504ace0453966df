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
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|layer| layer as &dyn Error)
        }
    }

    /// Returns an error with these texts, from the outermost to the deepest.
    fn chain(texts: &[&'static str]) -> Layer {
        let (first, rest) = texts.split_first().unwrap();
        let source = (!rest.is_empty()).then(|| Box::new(chain(rest)));
        Layer(first, source)
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
            assert_eq!(display_with_causes(&chain(texts)), want);
        }
    }

    #[test]
    fn endless_chain_ends() {
        #[derive(Debug)]
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("x")
            }
        }
        impl Error for Endless {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&Endless)
            }
        }
        assert_eq!(display_with_causes(&Endless), "x");
    }
}
