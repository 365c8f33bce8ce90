//! The little DER that is written by hand: subjects with several organisations.
//!
//! rcgen keeps one value per attribute type, while Kubernetes reads every `O` of a client certificate as a group.
//! So rcgen issues the certificate, and this replaces the subject and signs again.

use rcgen::SigningKey;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::CertError;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const BIT_STRING: u8 = 0x03;

/// 2.5.4.3, RFC 5280 appendix A.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
/// 2.5.4.10.
const ORGANIZATION: [u8; 3] = [0x55, 0x04, 0x0a];

/// `template` with the subject `O=…, O=…, CN=…`, signed by `signer`, whose algorithm must be the template's.
pub(crate) fn with_subject(
    template: &CertificateDer<'_>,
    common_name: &str,
    organizations: &[&str],
    signer: &impl SigningKey,
) -> Result<CertificateDer<'static>, CertError> {
    let unreadable = |_| CertError::Issue("the issued certificate cannot be read back".to_owned());
    let (_, parsed) = X509Certificate::from_der(template).map_err(unreadable)?;
    let to_be_signed = &parsed.tbs_certificate;
    let old_subject = to_be_signed.subject().as_raw();
    let whole: &[u8] = to_be_signed.as_ref();
    // Both slices lie in the template, so their distance is the subject's place in it.
    let start = old_subject.as_ptr().addr().checked_sub(whole.as_ptr().addr());
    let header = whole.len().checked_sub(content_length(whole));
    let (Some(start), Some(header)) = (start, header) else {
        return Err(CertError::Issue("the issued certificate has no subject".to_owned()));
    };
    let (Some(before), Some(after)) = (whole.get(header..start), whole.get(start + old_subject.len()..))
    else {
        return Err(CertError::Issue("the issued certificate has no subject".to_owned()));
    };

    let names: Vec<u8> = organizations
        .iter()
        .map(|organization| attribute(ORGANIZATION, organization))
        .chain([attribute(COMMON_NAME, common_name)])
        .flatten()
        .collect();
    let to_be_signed = element(SEQUENCE, &[before, &element(SEQUENCE, &[&names]), after]);
    let signature = signer.sign(&to_be_signed)?;
    let algorithm = algorithm_of(template, whole.len())
        .ok_or_else(|| CertError::Issue("the issued certificate names no algorithm".to_owned()))?;
    let signature = element(BIT_STRING, &[&[0], &signature]);
    Ok(element(SEQUENCE, &[&to_be_signed, algorithm, &signature]).into())
}

/// The `AlgorithmIdentifier` that follows the `length` bytes of the part to be signed.
fn algorithm_of(certificate: &[u8], length: usize) -> Option<&[u8]> {
    let header = certificate.len().checked_sub(content_length(certificate))?;
    let rest = certificate.get(header + length..)?;
    let (header, content) = measure(rest)?;
    rest.get(..header + content)
}

/// One relative distinguished name with one attribute.
fn attribute(oid: [u8; 3], value: &str) -> Vec<u8> {
    let oid = element(OBJECT_IDENTIFIER, &[&oid]);
    let value = element(UTF8_STRING, &[value.as_bytes()]);
    element(SET, &[&element(SEQUENCE, &[&oid, &value])])
}

/// Tag, length and content.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let significant = bytes.iter().skip_while(|byte| **byte == 0);
        out.push(0x80 | significant.clone().count() as u8);
        out.extend(significant);
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// The lengths of header and content of the element at the start of `der`.
fn measure(der: &[u8]) -> Option<(usize, usize)> {
    let first = usize::from(*der.get(1)?);
    if first < 0x80 {
        return Some((2, first));
    }
    let count = first & 0x7f;
    let length = der.get(2..2 + count)?.iter().fold(0usize, |sum, byte| (sum << 8) | usize::from(*byte));
    Some((2 + count, length))
}

fn content_length(der: &[u8]) -> usize {
    measure(der).map_or(0, |(_, content)| content)
}
