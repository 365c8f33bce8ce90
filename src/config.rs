//! From flags and environment to one typed, validated [`Config`].
//!
//! Two steps, so that no half-checked value gets any further: clap fills [`ServeFlags`], [`ServeFlags::resolve`]
//! checks them together. Every error names the flag. No files are read here.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::Args;

/// The flags of `clusterway serve`, as they were given.
#[derive(Args, Clone, Debug)]
pub struct ServeFlags {
    /// Address and port to listen on. Only this machine can connect to the default; use 0.0.0.0:8443 to
    /// serve others
    #[arg(long, value_name = "IP:PORT", env = "CLUSTERWAY_LISTEN", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,

    /// Folder of Kubernetes manifests: cluster Secrets and RBAC. May be given several times
    #[arg(
        long,
        value_name = "DIR",
        env = "CLUSTERWAY_MANIFESTS",
        value_delimiter = ':',
        help_heading = "Clusters"
    )]
    pub manifests: Vec<PathBuf>,

    /// Kubeconfig of which every context is a cluster. May be given several times. The variable KUBECONFIG is not
    /// read
    #[arg(
        long,
        value_name = "FILE",
        env = "CLUSTERWAY_KUBECONFIG",
        value_delimiter = ':',
        help_heading = "Clusters"
    )]
    pub kubeconfig: Vec<PathBuf>,

    /// Serving certificate chain as PEM, leaf first; read again when it changes
    #[arg(long, value_name = "FILE", env = "CLUSTERWAY_TLS_CERT_FILE", help_heading = "Serving certificate")]
    pub tls_cert_file: Option<PathBuf>,

    /// Private key of the serving certificate as PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "CLUSTERWAY_TLS_PRIVATE_KEY_FILE",
        help_heading = "Serving certificate"
    )]
    pub tls_private_key_file: Option<PathBuf>,

    /// Where to keep an authority of our own that issues the serving certificate, when no files are given; its
    /// certificate for clients is ca.crt in there [default: clusterway in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "DIR", env = "CLUSTERWAY_STATE_DIR", help_heading = "Serving certificate")]
    pub state_dir: Option<PathBuf>,

    /// Further DNS names and IP addresses for the issued certificate, beside localhost and the address listened on
    #[arg(
        long,
        value_name = "NAME",
        env = "CLUSTERWAY_TLS_SAN",
        value_delimiter = ',',
        help_heading = "Serving certificate"
    )]
    pub tls_san: Vec<String>,

    /// Authorities for client certificates as PEM: CN is the user, every O a group; read again when it changes
    #[arg(long, value_name = "FILE", env = "CLUSTERWAY_CLIENT_CA_FILE", help_heading = "Callers")]
    pub client_ca_file: Option<PathBuf>,

    /// Bearer tokens in kube-apiserver's format, lines of token,user,uid,"group1,group2"; read again when it changes
    #[arg(long, value_name = "FILE", env = "CLUSTERWAY_TOKEN_AUTH_FILE", help_heading = "Callers")]
    pub token_auth_file: Option<PathBuf>,

    /// Longest wait for a TCP connection to a member
    #[arg(
        long, value_name = "TIME", env = "CLUSTERWAY_DIAL_TIMEOUT", default_value = "10s",
        value_parser = humantime::parse_duration, help_heading = "Limits"
    )]
    pub dial_timeout: Duration,

    /// Longest TLS handshake with a member
    #[arg(
        long, value_name = "TIME", env = "CLUSTERWAY_TLS_TIMEOUT", default_value = "10s",
        value_parser = humantime::parse_duration, help_heading = "Limits"
    )]
    pub tls_timeout: Duration,

    /// Longest wait for a member's response head; what follows the head (watch, logs -f) has no limit
    #[arg(
        long, value_name = "TIME", env = "CLUSTERWAY_RESPONSE_HEAD_TIMEOUT", default_value = "65s",
        value_parser = humantime::parse_duration, help_heading = "Limits"
    )]
    pub response_head_timeout: Duration,

    /// Longest wait for a member's answer to exec, attach and port-forward
    #[arg(
        long, value_name = "TIME", env = "CLUSTERWAY_UPGRADE_HEAD_TIMEOUT", default_value = "30s",
        value_parser = humantime::parse_duration, help_heading = "Limits"
    )]
    pub upgrade_head_timeout: Duration,

    /// How long watches, followed logs and sessions may go on after SIGTERM
    #[arg(
        long, value_name = "TIME", env = "CLUSTERWAY_DRAIN", default_value = "30s",
        value_parser = humantime::parse_duration, help_heading = "Limits"
    )]
    pub drain: Duration,

    /// Most client connections at a time; further clients wait
    #[arg(
        long,
        value_name = "N",
        env = "CLUSTERWAY_MAX_CONNECTIONS",
        default_value_t = 10_000,
        help_heading = "Limits"
    )]
    pub max_connections: usize,

    /// Most connections to one member at a time
    #[arg(
        long,
        value_name = "N",
        env = "CLUSTERWAY_CONNECTIONS_PER_MEMBER",
        default_value_t = 200,
        help_heading = "Limits"
    )]
    pub connections_per_member: usize,
}

/// A stand-alone Clusterway, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What to show clients.
    pub serving: Serving,
    /// Authorities for client certificates.
    pub client_ca_file: Option<PathBuf>,
    /// Static bearer tokens.
    pub token_auth_file: Option<PathBuf>,
    /// Folders of manifests.
    pub manifests: Vec<PathBuf>,
    /// Kubeconfig files.
    pub kubeconfigs: Vec<PathBuf>,
    /// What the way to a member may take.
    pub member: MemberLimits,
    /// Most client connections at a time.
    pub max_connections: usize,
    /// How long long-running streams may go on after SIGTERM.
    pub drain: Duration,
}

/// Where the serving certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// From PEM files.
    Files {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// Issued by an authority of our own.
    StateDirectory {
        /// Where it is kept.
        path: PathBuf,
        /// Whom the certificate is for.
        names: Vec<String>,
    },
}

/// Limits on the way to one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberLimits {
    /// For the TCP connection.
    pub dial: Duration,
    /// For the TLS handshake.
    pub tls: Duration,
    /// For the response head.
    pub response_head: Duration,
    /// For the answer to an upgrade.
    pub upgrade_head: Duration,
    /// Connections at a time.
    pub connections: usize,
}

impl Default for MemberLimits {
    /// The defaults of the flags.
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(10),
            tls: Duration::from_secs(10),
            response_head: Duration::from_secs(65),
            upgrade_head: Duration::from_secs(30),
            connections: 200,
        }
    }
}

/// The longest time that a flag may say. Far longer ones do not fit into the clock.
const LONGEST_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Flags that do not make a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No source of clusters.
    #[error("there are no clusters to serve: give --manifests DIR or --kubeconfig FILE (or both)")]
    NoClusters,
    /// Nobody could ever call.
    #[error("nobody could call: give --client-ca-file FILE or --token-auth-file FILE (or both)")]
    NoCallers,
    /// One of the two serving certificate files.
    #[error("{given} needs {missing} as well")]
    HalfOfPair {
        /// The flag that was given.
        given: &'static str,
        /// The flag that was not.
        missing: &'static str,
    },
    /// A flag about the issued certificate next to certificate files.
    #[error(
        "{0} is about the certificate that Clusterway issues itself; leave it out when --tls-cert-file is given"
    )]
    NotWithFiles(&'static str),
    /// A limit of zero.
    #[error("{0} must be more than zero")]
    Zero(&'static str),
    /// A limit that nobody would live to see.
    #[error("{0} must be at most 24h")]
    TooLong(&'static str),
    /// There is no home directory to put the state below.
    #[error(
        "there is nowhere to keep the serving certificate: give --tls-cert-file and --tls-private-key-file, or \
         --state-dir DIR, or set HOME"
    )]
    NoStateDirectory,
}

impl ServeFlags {
    /// Checks the flags together.
    ///
    /// # Errors
    /// [`ConfigError`], naming the flag.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        if self.manifests.is_empty() && self.kubeconfig.is_empty() {
            return Err(ConfigError::NoClusters);
        }
        if self.client_ca_file.is_none() && self.token_auth_file.is_none() {
            return Err(ConfigError::NoCallers);
        }
        let more_than_zero = [
            ("--dial-timeout", self.dial_timeout.is_zero()),
            ("--tls-timeout", self.tls_timeout.is_zero()),
            ("--response-head-timeout", self.response_head_timeout.is_zero()),
            ("--upgrade-head-timeout", self.upgrade_head_timeout.is_zero()),
            ("--max-connections", self.max_connections == 0),
            ("--connections-per-member", self.connections_per_member == 0),
        ];
        if let Some((flag, _)) = more_than_zero.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(ConfigError::Zero(flag));
        }
        let times = [
            ("--dial-timeout", self.dial_timeout),
            ("--tls-timeout", self.tls_timeout),
            ("--response-head-timeout", self.response_head_timeout),
            ("--upgrade-head-timeout", self.upgrade_head_timeout),
            ("--drain", self.drain),
        ];
        if let Some((flag, _)) = times.into_iter().find(|(_, time)| *time > LONGEST_TIME) {
            return Err(ConfigError::TooLong(flag));
        }
        Ok(Config {
            serving: self.serving(default_state_directory)?,
            listen: self.listen,
            client_ca_file: self.client_ca_file,
            token_auth_file: self.token_auth_file,
            manifests: self.manifests,
            kubeconfigs: self.kubeconfig,
            member: MemberLimits {
                dial: self.dial_timeout,
                tls: self.tls_timeout,
                response_head: self.response_head_timeout,
                upgrade_head: self.upgrade_head_timeout,
                connections: self.connections_per_member,
            },
            max_connections: self.max_connections,
            drain: self.drain,
        })
    }

    fn serving(&self, default_directory: impl Fn() -> Option<PathBuf>) -> Result<Serving, ConfigError> {
        const CERTIFICATE: &str = "--tls-cert-file";
        const KEY: &str = "--tls-private-key-file";
        match (&self.tls_cert_file, &self.tls_private_key_file) {
            (Some(certificate), Some(key)) => {
                if self.state_dir.is_some() {
                    return Err(ConfigError::NotWithFiles("--state-dir"));
                }
                if !self.tls_san.is_empty() {
                    return Err(ConfigError::NotWithFiles("--tls-san"));
                }
                Ok(Serving::Files { certificate: certificate.clone(), key: key.clone() })
            }
            (Some(_), None) => Err(ConfigError::HalfOfPair { given: CERTIFICATE, missing: KEY }),
            (None, Some(_)) => Err(ConfigError::HalfOfPair { given: KEY, missing: CERTIFICATE }),
            (None, None) => {
                let path = self.state_dir.clone().or_else(default_directory);
                let path = path.ok_or(ConfigError::NoStateDirectory)?;
                Ok(Serving::StateDirectory { path, names: self.names() })
            }
        }
    }

    /// Under which names clients reach the address listened on, as far as we can know.
    fn names(&self) -> Vec<String> {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let own = match self.listen.ip() {
            IpAddr::V6(address) => address.to_canonical(),
            address => address,
        };
        let own = (!own.is_unspecified()).then(|| own.to_string());
        for name in own.into_iter().chain(self.tls_san.iter().cloned()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// Where the XDG Base Directory Specification puts state.
fn default_state_directory() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(base.join("clusterway"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: ServeFlags,
    }

    /// The least there must be.
    const LEAST: [&str; 3] = ["--manifests=m", "--token-auth-file=t", "--state-dir=s"];

    fn flags(arguments: &[&str]) -> ServeFlags {
        Line::try_parse_from([&["serve"], arguments].concat()).unwrap_or_else(|error| panic!("{error}")).flags
    }

    fn resolve(arguments: &[&str]) -> Result<Config, ConfigError> {
        flags(arguments).resolve()
    }

    fn refused(arguments: &[&str]) -> String {
        resolve(arguments).unwrap_err().to_string()
    }

    #[test]
    fn times_that_no_clock_can_hold_are_refused_by_the_flags_name() {
        for flag in [
            "--dial-timeout",
            "--tls-timeout",
            "--response-head-timeout",
            "--upgrade-head-timeout",
            "--drain",
        ] {
            let flags = flags(&[&LEAST[..], &[&format!("{flag}=5000000y")]].concat());
            assert!(flags.resolve().unwrap_err().to_string().starts_with(flag), "{flag}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_guide() {
        let config = resolve(&LEAST).unwrap();
        assert_eq!(config.listen, "127.0.0.1:8443".parse().unwrap());
        assert_eq!(config.drain, Duration::from_secs(30));
        assert_eq!(config.max_connections, 10_000);
        let member = MemberLimits {
            dial: Duration::from_secs(10),
            tls: Duration::from_secs(10),
            response_head: Duration::from_secs(65),
            upgrade_head: Duration::from_secs(30),
            connections: 200,
        };
        assert_eq!(config.member, member);
    }

    #[test]
    fn times_are_written_as_people_write_them() {
        let config = resolve(&[&LEAST[..], &["--drain=1m30s", "--dial-timeout", "500ms"]].concat()).unwrap();
        assert_eq!(config.drain, Duration::from_secs(90));
        assert_eq!(config.member.dial, Duration::from_millis(500));
        let bare = Line::try_parse_from([&["serve"], &LEAST[..], &["--drain=30"]].concat());
        assert!(bare.err().unwrap().to_string().contains("--drain"));
    }

    #[test]
    fn sources_may_be_given_several_times() {
        let config =
            resolve(&["--manifests=a", "--manifests", "b:c", "--kubeconfig=k", "--client-ca-file=ca"]);
        let config = config.unwrap();
        assert_eq!(config.manifests, ["a", "b", "c"].map(PathBuf::from));
        assert_eq!(config.kubeconfigs, [PathBuf::from("k")]);
    }

    #[test]
    fn without_clusters_or_callers_there_is_nothing_to_serve() {
        assert!(refused(&["--token-auth-file=t"]).contains("--manifests"));
        assert!(refused(&["--kubeconfig=k"]).contains("--client-ca-file"));
    }

    #[test]
    fn limits_of_zero_are_refused_by_name() {
        for flag in [
            "--dial-timeout=0s",
            "--tls-timeout=0s",
            "--response-head-timeout=0s",
            "--upgrade-head-timeout=0s",
            "--max-connections=0",
            "--connections-per-member=0",
        ] {
            let error = refused(&[&LEAST[..], &[flag]].concat());
            assert!(error.starts_with(flag.split('=').next().unwrap()), "{error}");
        }
        resolve(&[&LEAST[..], &["--drain=0s"]].concat()).unwrap();
    }

    #[test]
    fn certificate_files_come_in_pairs_and_without_an_authority() {
        fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
            [&["--manifests=m", "--token-auth-file=t"], more].concat()
        }
        let (certificate, key) = ("--tls-cert-file=c", "--tls-private-key-file=k");
        assert!(refused(&with(&[certificate])).contains("needs --tls-private-key-file"));
        assert!(refused(&with(&[key])).contains("needs --tls-cert-file"));
        assert!(refused(&with(&[certificate, key, "--state-dir=s"])).starts_with("--state-dir"));
        assert!(refused(&with(&[certificate, key, "--tls-san=s"])).starts_with("--tls-san"));
        let files = Serving::Files { certificate: "c".into(), key: "k".into() };
        assert_eq!(resolve(&with(&[certificate, key])).unwrap().serving, files);
    }

    #[test]
    fn the_issued_certificate_is_for_every_name_we_know() {
        let names = |more: &[&str]| match resolve(&[&LEAST[..], more].concat()).unwrap().serving {
            Serving::StateDirectory { names, .. } => names,
            Serving::Files { .. } => panic!("no files were given"),
        };
        let always = ["localhost", "127.0.0.1", "::1"];
        assert_eq!(names(&[]), always);
        assert_eq!(names(&["--listen=0.0.0.0:443"]), always);
        assert_eq!(names(&["--listen=[::]:443"]), always);
        let more = names(&["--listen=192.0.2.1:443", "--tls-san=gateway.example.org,localhost"]);
        assert_eq!(more, ["localhost", "127.0.0.1", "::1", "192.0.2.1", "gateway.example.org"]);
    }

    #[test]
    fn without_a_home_the_state_directory_must_be_given() {
        let flags = flags(&["--manifests=m", "--token-auth-file=t"]);
        assert_eq!(flags.serving(|| None), Err(ConfigError::NoStateDirectory));
        let serving = flags.serving(|| Some("/state/clusterway".into())).unwrap();
        assert!(
            matches!(serving, Serving::StateDirectory { path, .. } if path.ends_with("state/clusterway"))
        );
    }
}
