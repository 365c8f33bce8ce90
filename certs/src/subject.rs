//! Whom a client certificate names.

use std::time::{Duration, SystemTime};

use x509_parser::prelude::{AttributeTypeAndValue, FromDer as _, X509Certificate};

/// What Kubernetes reads from a client certificate: `CN` is the user, every `O` a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The common name; the last one where there are several (as Go's `pkix.Name` has it), empty where there is none.
    pub common_name: String,
    /// The organisations in their order, without empty ones.
    pub organizations: Vec<String>,
}

impl Subject {
    /// Reads the subject of a DER certificate.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn of(certificate: &[u8]) -> Result<Self, String> {
        let certificate = parse(certificate)?;
        let text = |attribute: &AttributeTypeAndValue<'_>| {
            attribute
                .as_str()
                .map(str::to_owned)
                .map_err(|_| "its subject has a name that is not UTF-8, printable or IA5 text".to_owned())
        };
        let subject = certificate.subject();
        Ok(Self {
            common_name: subject.iter_common_name().last().map(text).transpose()?.unwrap_or_default(),
            organizations: subject
                .iter_organization()
                .map(text)
                .filter(|name| !name.as_ref().is_ok_and(String::is_empty))
                .collect::<Result<_, _>>()?,
        })
    }
}

pub(crate) fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, String> {
    X509Certificate::from_der(certificate)
        .map(|(_, parsed)| parsed)
        .map_err(|error| format!("not an X.509 certificate: {error}"))
}

/// The end of a DER certificate's time.
pub(crate) fn not_after(certificate: &[u8]) -> Result<SystemTime, String> {
    let seconds = parse(certificate)?.validity().not_after.timestamp();
    Ok(u64::try_from(seconds)
        .map_or(SystemTime::UNIX_EPOCH, |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
}
