//! What is measured.

use http::Version;

/// The shape of one client's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// GET of a 2 KB object.
    Get,
    /// GET of a 50 MiB list.
    List,
    /// One upgraded stream, the member sending as fast as it can.
    Flood,
    /// One upgraded stream, a short message there and back.
    Echo,
}

/// One line of the report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// What it is called in the report.
    pub(crate) name: &'static str,
    /// What each client does.
    pub(crate) kind: Kind,
    /// What is spoken with the proxy.
    pub(crate) version: Version,
    /// Connections to the proxy.
    pub(crate) connections: usize,
    /// Clients on each of them.
    pub(crate) streams: usize,
}

impl Scenario {
    /// Whether bytes are what counts, not answers.
    pub(crate) fn bulk(&self) -> bool {
        matches!(self.kind, Kind::List | Kind::Flood)
    }
}

const fn h1(name: &'static str, kind: Kind, connections: usize) -> Scenario {
    Scenario { name, kind, version: Version::HTTP_11, connections, streams: 1 }
}

const fn h2(name: &'static str, kind: Kind, connections: usize, streams: usize) -> Scenario {
    Scenario { name, kind, version: Version::HTTP_2, connections, streams }
}

/// All of them, in the order of the report.
pub(crate) const ALL: [Scenario; 10] = [
    h1("GET 2 KB, h1, 1 connection", Kind::Get, 1),
    h1("GET 2 KB, h1, 32 connections", Kind::Get, 32),
    h1("GET 2 KB, h1, 256 connections", Kind::Get, 256),
    h2("GET 2 KB, h2, 1 stream", Kind::Get, 1, 1),
    h2("GET 2 KB, h2, 32 streams (4 × 8)", Kind::Get, 4, 8),
    h2("GET 2 KB, h2, 256 streams (8 × 32)", Kind::Get, 8, 32),
    h1("50 MiB list, h1, 2 at a time", Kind::List, 2),
    h2("50 MiB list, h2, 2 at a time", Kind::List, 2, 1),
    h1("upgraded stream, 64 bytes echoed", Kind::Echo, 1),
    h1("upgraded stream, member → client", Kind::Flood, 1),
];
