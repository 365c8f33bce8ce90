//! What weakens TLS by itself and is only safe together with something else.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

/// Asks clients for a certificate and lets *any* pass the handshake, even none.
///
/// The client still proves that it holds the certificate's key. Who issued it is *not* checked: every request has to
/// run the chain through [`ClientAuthority::verify`](crate::ClientAuthority::verify) before a word in it is
/// believed. That is how a kube-apiserver does it: the answer to a bad certificate is a readable 401 instead of a
/// broken handshake, and changed trust reaches open connections.
#[derive(Debug)]
pub struct UnverifiedClientCertificates {
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl UnverifiedClientCertificates {
    /// `hints` are the subjects of the authorities that clients with several certificates should choose by.
    pub fn new(hints: Vec<DistinguishedName>) -> Self {
        Self { hints, provider: crate::provider() }
    }
}

impl ClientCertVerifier for UnverifiedClientCertificates {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
