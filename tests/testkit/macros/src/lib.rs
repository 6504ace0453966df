//! The attribute `#[test]` of a test binary that runs with `testkit::main!`.

use proc_macro::{TokenStream, TokenTree};

/// Registers a function without parameters and result as a test.
///
/// Its name is the path of its module below the crate, then the name of the function, as in the standard harness.
#[proc_macro_attribute]
pub fn test(attribute: TokenStream, function: TokenStream) -> TokenStream {
    if !attribute.is_empty() {
        return error("#[test] has no arguments");
    }
    let Some(name) = name_of(function.clone()) else {
        return error("#[test] needs a function");
    };
    let registration = format!(
        "::testkit::inventory::submit! {{ ::testkit::Test::new(::core::module_path!(), \"{name}\", {name}) }}"
    );
    let registration: TokenStream = registration.parse().unwrap_or_default();
    function.into_iter().chain(registration).collect()
}

/// Returns the identifier after `fn`.
fn name_of(function: TokenStream) -> Option<String> {
    let mut identifiers = function.into_iter().map(|token| match token {
        TokenTree::Ident(identifier) => Some(identifier.to_string()),
        _ => None,
    });
    identifiers.find(|name| name.as_deref() == Some("fn"))?;
    identifiers.next()?
}

fn error(text: &str) -> TokenStream {
    let call = format!("::core::compile_error!({text:?});");
    call.parse().unwrap_or_default()
}
