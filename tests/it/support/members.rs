//! An embedded member of the demo behind a gateway in a process of its own.

use clusterway::demo::member::{Member, MemberConfig};

use super::{
    gateway::{Cluster, Gateway, Setup},
    kubectl::{Kubectl, Session},
};

/// Cluster `east`, an embedded member.
pub struct Demo {
    pub gateway: Gateway,
    pub member: Member,
}

impl Demo {
    pub async fn start() -> Self {
        let member = Member::start(MemberConfig::named("east")).await.unwrap();
        let (certificate, key) = member.gateway_certificate();
        let cluster = Cluster::new("east", &format!("https://{}", member.address()))
            .authority(&member.ca_pem())
            .certificate(&certificate, &key);
        Self { gateway: Setup::new().cluster(&cluster).start(), member }
    }

    /// The member's port on loopback.
    pub fn port(&self) -> u16 {
        self.member.address().port()
    }

    /// `kubectl` for whoever has `token`.
    pub fn session(&self, kubectl: &Kubectl, token: &str) -> Session {
        kubectl.at(&self.gateway.kubeconfig(token, "east"))
    }
}

/// The same kubectl, with a namespace of its own, named after `name` and its version, as its default.
pub fn in_namespace(session: Session, name: &str) -> Session {
    let name = format!("{name}-{}", session.minor());
    session.run(&format!("create namespace {name}")).ok();
    session.run(&format!("config set-context --current --namespace={name}")).ok();
    session
}
