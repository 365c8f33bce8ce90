//! Which form of an answer a client asks for.

use http::{HeaderMap, StatusCode, header};

use super::failure::Failure;

/// The form of an object or list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Object,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// Metadata only.
    PartialMetadata,
}

/// What `Accept` allows.
///
/// # Errors
/// 406 when nothing that is offered can be had; protobuf and CBOR cannot.
pub(crate) fn form(headers: &HeaderMap) -> Result<Form, Failure> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    accept.split(',').find_map(clause).ok_or_else(|| {
        let message = "only the following media types are accepted: application/json";
        Failure::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    })
}

fn clause(clause: &str) -> Option<Form> {
    let mut parts = clause.split(';').map(str::trim);
    if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
        return None;
    }
    let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
    let parameter = |name| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    match (parameter("as"), parameter("g"), parameter("v")) {
        (None, _, _) => Some(Form::Object),
        (Some("Table"), Some("meta.k8s.io"), Some("v1" | "v1beta1")) => Some(Form::Table),
        (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
            Some(Form::PartialMetadata)
        }
        _ => None,
    }
}

/// The discovery document that `Accept` asks for: the version of the aggregated one, or the legacy ones.
pub(crate) fn aggregated_discovery(headers: &HeaderMap) -> Option<&'static str> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept
        .split(',')
        .find_map(|clause| {
            if !clause.contains("g=apidiscovery.k8s.io") {
                return matches!(clause.split(';').next()?.trim(), "application/json" | "*/*")
                    .then_some(None);
            }
            ["v2", "v2beta1"]
                .into_iter()
                .find(|version| clause.split(';').any(|part| part.trim() == format!("v={version}")))
                .map(Some)
        })
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())])
    }

    #[test]
    fn the_first_form_that_can_be_had_is_taken() {
        for (accept, expected) in [
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Form::Table),
            ("application/vnd.kubernetes.protobuf, application/json", Form::Object),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,*/*", Form::PartialMetadata),
            ("application/json;as=Unknown;g=x;v=v9, */*", Form::Object),
        ] {
            assert_eq!(form(&headers(accept)).unwrap(), expected, "{accept}");
        }
        assert_eq!(form(&HeaderMap::new()).unwrap(), Form::Object);
        assert!(form(&headers("application/vnd.kubernetes.protobuf")).is_err());
    }

    #[test]
    fn aggregated_discovery_is_for_those_who_ask_first() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        assert_eq!(aggregated_discovery(&headers(&format!("{v2},{beta},application/json"))), Some("v2"));
        assert_eq!(aggregated_discovery(&headers(&format!("{beta},application/json"))), Some("v2beta1"));
        assert_eq!(aggregated_discovery(&headers("application/json")), None);
        assert_eq!(aggregated_discovery(&HeaderMap::new()), None);
    }
}
