//! An authority that issues serving and client certificates: for the state directory, the demo and the tests.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{CertError, der, pem, provider, subject};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an authority lives.
pub(crate) const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * DAY.as_secs());
/// How long what it issues lives.
pub(crate) const LEAF_LIFETIME: Duration = Duration::from_secs(90 * DAY.as_secs());
/// Clocks differ; certificates are valid from a little before they are made.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// A certificate authority with its key in memory.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new one, valid for ten years.
    ///
    /// # Errors
    /// [`CertError::Issue`] when no key can be made.
    pub fn new(common_name: &str) -> Result<Self, CertError> {
        let key = KeyPair::generate()?;
        let params = authority_params(common_name);
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Takes up one that was made by [`Authority::new`] and kept as PEM; `origin` names it in errors.
    ///
    /// # Errors
    /// [`CertError`] when the certificate is not an authority's, or the key is not the certificate's.
    pub(crate) fn from_pem(pem: &[u8], origin: &str) -> Result<Self, CertError> {
        let malformed = |reason: String| CertError::Malformed { origin: origin.to_owned(), reason };
        let certificate = pem::certificates(pem, origin)?.swap_remove(0);
        let key = pem::private_key(pem, origin)?;
        let parsed = subject::parse(&certificate).map_err(malformed)?;
        if !parsed.is_ca() {
            return Err(malformed(
                "not the certificate of an authority (basic constraints CA:TRUE)".to_owned(),
            ));
        }
        let common_name = subject::Subject::of(&certificate).map_err(malformed)?.common_name;
        CertifiedKey::from_der(vec![certificate.clone()], key.clone_key(), &provider())
            .map_err(|error| malformed(error.to_string()))?;
        let key = KeyPair::try_from(key.secret_der())
            .map_err(|_| malformed("the private key is not a PKCS#8 key that can sign".to_owned()))?;
        Ok(Self { issuer: Issuer::new(authority_params(&common_name), key), certificate })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate, to be handed to clients.
    pub fn certificate_pem(&self) -> String {
        certificate_pem(&self.certificate)
    }

    /// Its certificate and its private key.
    pub(crate) fn to_pem(&self) -> String {
        format!("{}{}", self.certificate_pem(), self.issuer.key().serialize_pem())
    }

    /// When its own time ends.
    pub(crate) fn not_after(&self) -> SystemTime {
        subject::not_after(&self.certificate).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Issues a serving certificate for `names` (DNS names and IP addresses), valid for 90 days.
    ///
    /// # Errors
    /// [`CertError::InvalidName`] for a name that is neither.
    pub fn issue_server<S: AsRef<str>>(&self, names: &[S]) -> Result<Issued, CertError> {
        let mut params = leaf_params(ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names =
            names.iter().map(|name| alternative_name(name.as_ref())).collect::<Result<_, _>>()?;
        // RFC 6125 clients read the alternative names only; the common name is for people.
        let common_name = names.first().map_or("clusterway", |name| name.as_ref());
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        Ok(Issued { chain: vec![certificate], key: der_of(&key) })
    }

    /// Issues a client certificate for `user` in `groups`, valid for 90 days.
    ///
    /// # Errors
    /// [`CertError::Issue`].
    pub fn issue_client(&self, user: &str, groups: &[&str]) -> Result<Issued, CertError> {
        let params = leaf_params(ExtendedKeyUsagePurpose::ClientAuth);
        let key = KeyPair::generate()?;
        let template = params.signed_by(&key, &self.issuer)?;
        let certificate = der::with_subject(template.der(), user, groups, self.issuer.key())?;
        Ok(Issued { chain: vec![certificate], key: der_of(&key) })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A certificate that an [`Authority`] has issued, with its key.
pub struct Issued {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Issued {
    /// The certificate chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The private key.
    pub fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }

    /// The chain as PEM.
    pub fn certificate_pem(&self) -> String {
        self.chain.iter().map(certificate_pem).collect()
    }

    /// The private key as PKCS#8 PEM. A secret: it belongs into a file of mode 0600 and nowhere else.
    pub fn key_pem(&self) -> String {
        block("PRIVATE KEY", self.key.secret_der())
    }

    /// Both, ready for a rustls configuration.
    ///
    /// # Errors
    /// [`CertError::Tls`], which does not happen to what an [`Authority`] made.
    pub fn certified_key(&self) -> Result<CertifiedKey, CertError> {
        Ok(CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider())?)
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

fn authority_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, AUTHORITY_LIFETIME);
    params
}

fn leaf_params(usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, LEAF_LIFETIME);
    params
}

fn valid_for(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + lifetime).into();
}

fn alternative_name(name: &str) -> Result<SanType, CertError> {
    let invalid = || CertError::InvalidName(name.to_owned());
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let host = name.strip_prefix("*.").unwrap_or(name);
    rustls_pki_types::DnsName::try_from(host).map_err(|_| invalid())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| invalid())?))
}

fn der_of(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

fn certificate_pem(certificate: &CertificateDer<'static>) -> String {
    block("CERTIFICATE", certificate)
}

/// One PEM block (RFC 7468).
fn block(label: &str, der: &[u8]) -> String {
    let line_endings = ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF);
    ::pem::encode_config(&::pem::Pem::new(label, der), line_endings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Subject;

    #[test]
    fn client_certificates_carry_every_group() {
        let groups: Vec<String> = (0..300).map(|n| format!("team:{n}")).collect();
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        let issued = Authority::new("test").unwrap().issue_client("jane", &groups).unwrap();
        let subject = Subject::of(&issued.chain()[0]).unwrap();
        assert_eq!(subject.common_name, "jane");
        assert_eq!(subject.organizations, groups);
        issued.certified_key().unwrap();
    }

    #[test]
    fn an_authority_survives_being_written_down() {
        let authority = Authority::new("kept").unwrap();
        let again = Authority::from_pem(authority.to_pem().as_bytes(), "ca.pem").unwrap();
        assert_eq!(again.certificate(), authority.certificate());
        assert_eq!(
            Subject::of(&again.issue_client("jane", &[]).unwrap().chain()[0]).unwrap().common_name,
            "jane"
        );
    }

    #[test]
    fn a_leaf_is_not_taken_for_an_authority() {
        let issued = Authority::new("test").unwrap().issue_server(&["localhost"]).unwrap();
        let pem = format!("{}{}", issued.certificate_pem(), issued.key_pem());
        let error = Authority::from_pem(pem.as_bytes(), "ca.pem").unwrap_err();
        assert!(error.to_string().contains("CA:TRUE"), "{error}");
    }

    #[test]
    fn names_that_are_neither_host_nor_address_are_refused() {
        let authority = Authority::new("test").unwrap();
        for name in ["", "a b", "https://x", "x:443", "*", "a..b"] {
            assert!(matches!(authority.issue_server(&[name]), Err(CertError::InvalidName(_))), "{name}");
        }
        authority.issue_server(&["localhost", "*.example.org", "127.0.0.1", "::1"]).unwrap();
    }
}
