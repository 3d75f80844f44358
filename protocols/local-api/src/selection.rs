//! Which network a request is about: the part of its address behind the question mark, `?network=NAME`.

use crate::{ApiError, Exit};

/// The address of a request to `path` about a network, which is named by its name or the start of its id.
///
/// # Errors
/// An error of [`Exit::NotFound`] for what can be neither.
pub fn address(path: &str, network: Option<&str>) -> Result<String, ApiError> {
    match network {
        None => Ok(path.to_owned()),
        Some(name) if is_label(name) => Ok(format!("{path}?network={name}")),
        Some(name) => Err(ApiError::new(Exit::NotFound, "not-found", format!("no network can be called {name:?}"))
            .with_hint("Give the name that `ginnel status` shows, or the start of the id.")),
    }
}

/// The network that the query of a request's address names.
///
/// # Errors
/// An error of [`Exit::Usage`] for any other query.
pub fn network(query: Option<&str>) -> Result<Option<String>, ApiError> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(None) };
    match query.strip_prefix("network=") {
        Some(name) if is_label(name) => Ok(Some(name.to_owned())),
        Some(_) | None => Err(ApiError::new(
            Exit::Usage,
            "bad-request",
            "behind the question mark stands network= and the name or id of a network, and nothing else",
        )),
    }
}

fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !text.is_empty() && text.len() <= LONGEST && text.bytes().all(plain)
}

/// An id in hexadecimal; a name is shorter.
const LONGEST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_comes_back_from_its_own_address() {
        let address = address("/v1/log", Some("home-2")).unwrap();
        let (path, query) = address.split_once('?').unwrap();
        assert_eq!((path, network(Some(query))), ("/v1/log", Ok(Some("home-2".to_owned()))));
        assert_eq!(super::address("/v1/log", None), Ok("/v1/log".to_owned()));
        assert_eq!((network(None), network(Some(""))), (Ok(None), Ok(None)));
    }

    #[test]
    fn anything_else_is_refused() {
        for name in ["", "a b", "a/b", "a&b", "ä", "a".repeat(65).as_str()] {
            assert_eq!(address("/v1/log", Some(name)).unwrap_err().exit, Exit::NotFound, "{name}");
            assert_eq!(network(Some(&format!("network={name}"))).unwrap_err().exit, Exit::Usage, "{name}");
        }
        assert_eq!(network(Some("netwrok=home")).unwrap_err().exit, Exit::Usage);
        assert_eq!(network(Some("network=home&network=work")).unwrap_err().exit, Exit::Usage);
    }
}
