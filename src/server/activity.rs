//! What a connection is doing, and whether it has done too little for too long.
//!
//! The socket and the requests write facts down as they happen, without timers; the connection's task looks at them
//! now and then and judges.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use upgrade_aware_proxy::Protocol;

use super::Limits;

/// How long a connection that is to end may take once nothing is in flight.
const FINISH_GRACE: Duration = Duration::from_secs(5);
/// The same before the first request, which may be on its way.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// Facts about one connection. Nothing here needs to be exact to more than some milliseconds, hence `Relaxed`.
#[derive(Debug)]
pub(super) struct Activity {
    start: Instant,
    protocol: Protocol,
    requests: AtomicU64,
    in_flight: AtomicU32,
    patient: AtomicU32,
    idle_since: Moment,
    head_since: Moment,
    blocked_since: Moment,
    /// Answers of which the client has not taken what there is, and since when none of them has moved.
    offering: AtomicU32,
    offered_since: Moment,
}

/// Milliseconds since the connection's start, plus one; zero is "never".
#[derive(Debug, Default)]
struct Moment(AtomicU64);

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Look again then.
    Fine(Instant),
    /// Let it end in order.
    Finish(&'static str),
    /// Drop it.
    Drop(&'static str),
}

impl Activity {
    /// A connection whose handshake is done and from which no request has come.
    pub(super) fn new(protocol: Protocol) -> Self {
        let activity = Self {
            start: Instant::now(),
            protocol,
            requests: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            patient: AtomicU32::new(0),
            idle_since: Moment::default(),
            head_since: Moment::default(),
            blocked_since: Moment::default(),
            offering: AtomicU32::new(0),
            offered_since: Moment::default(),
        };
        activity.idle_since.set(activity.start, activity.start);
        activity.head_since.set(activity.start, activity.start);
        activity
    }

    /// The socket has read something.
    pub(super) fn has_read(&self) {
        match self.protocol {
            // An HTTP/2 client has things to say even when it asks for nothing.
            Protocol::Http2 => self.head_since.clear(),
            Protocol::Http1 => {
                if self.in_flight.load(Relaxed) == 0 && self.head_since.is_never() {
                    self.head_since.set(self.start, Instant::now());
                }
            }
        }
    }

    /// The socket has written something.
    pub(super) fn has_written(&self) {
        self.blocked_since.clear();
    }

    /// The socket takes no more.
    pub(super) fn is_blocked(&self) {
        if self.blocked_since.is_never() {
            self.blocked_since.set(self.start, Instant::now());
        }
    }

    /// Judges at `now`; `finishing` once the connection has been told to end, at that moment.
    pub(super) fn verdict(&self, limits: &Limits, now: Instant, finishing: Option<Instant>) -> Verdict {
        let in_flight = self.in_flight.load(Relaxed) > 0;
        let patient = self.patient.load(Relaxed) > 0;
        let over = |since: &Moment, limit: Duration| since.get(self.start).map(|since| since + limit);

        let stall = over(&self.blocked_since, limits.write_stall).filter(|_| !patient);
        let offering = self.offering.load(Relaxed) > 0;
        let unread = over(&self.offered_since, limits.write_stall).filter(|_| offering && !patient);
        let head = over(&self.head_since, limits.request_head).filter(|_| !in_flight);
        let idle = over(&self.idle_since, limits.idle).filter(|_| !in_flight && finishing.is_none());
        let grace = if self.requests.load(Relaxed) == 0 { FIRST_REQUEST_GRACE } else { FINISH_GRACE };
        let finish = finishing
            .filter(|_| !in_flight && self.blocked_since.is_never())
            .map(|told| self.idle_since.get(self.start).map_or(told, |idle| idle.max(told)) + grace);

        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if passed(stall) || passed(unread) {
            return Verdict::Drop("the client does not read its answer");
        }
        if passed(head) {
            return Verdict::Drop("the client does not finish its request head");
        }
        if passed(finish) {
            return Verdict::Drop("the client does not close");
        }
        if passed(idle) {
            return Verdict::Finish("idle");
        }
        // Whatever begins right after this look cannot be due before the shortest of the limits.
        let shortest = limits.request_head.min(limits.idle).min(limits.write_stall);
        let shortest = if finishing.is_some() { shortest.min(grace) } else { shortest };
        let next = [stall, unread, head, idle, finish].into_iter().flatten().min();
        Verdict::Fine(next.map_or(now + shortest, |next| next.min(now + shortest)))
    }
}

impl Moment {
    fn set(&self, start: Instant, now: Instant) {
        let elapsed = now.saturating_duration_since(start).as_millis();
        self.0.store(u64::try_from(elapsed).unwrap_or(u64::MAX - 1) + 1, Relaxed);
    }

    fn clear(&self) {
        if !self.is_never() {
            self.0.store(0, Relaxed);
        }
    }

    fn is_never(&self) -> bool {
        self.0.load(Relaxed) == 0
    }

    fn get(&self, start: Instant) -> Option<Instant> {
        self.0.load(Relaxed).checked_sub(1).map(|elapsed| start + Duration::from_millis(elapsed))
    }
}

/// A request between its head and the end of its answer's body.
pub(super) struct InFlight {
    activity: Arc<Activity>,
    patient: bool,
    offering: bool,
}

impl InFlight {
    pub(super) fn begin(activity: Arc<Activity>) -> Self {
        activity.requests.fetch_add(1, Relaxed);
        activity.in_flight.fetch_add(1, Relaxed);
        activity.head_since.clear();
        Self { activity, patient: false, offering: false }
    }

    /// The write-stall limit does not apply to this one.
    pub(super) fn be_patient(&mut self) {
        if !self.patient {
            self.patient = true;
            self.activity.patient.fetch_add(1, Relaxed);
        }
    }

    /// There is something for the client.
    ///
    /// An HTTP/2 client that gives a stream no window takes nothing of its answer while the socket flows, so that the
    /// connection would never be seen as blocked; what tells is that nobody asks for more. HTTP/1.1 has no such second
    /// flow control.
    pub(super) fn offers(&mut self) {
        if !self.offering && self.activity.protocol == Protocol::Http2 {
            self.offering = true;
            if self.activity.offering.fetch_add(1, Relaxed) == 0 {
                self.activity.offered_since.set(self.activity.start, Instant::now());
            }
        }
    }

    /// The client has taken what there was. Any stream that moves counts for the whole connection.
    pub(super) fn is_taken(&mut self) {
        if self.offering {
            self.offering = false;
            if self.activity.offering.fetch_sub(1, Relaxed) > 1 {
                self.activity.offered_since.set(self.activity.start, Instant::now());
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.is_taken();
        if self.patient {
            self.activity.patient.fetch_sub(1, Relaxed);
        }
        if self.activity.in_flight.fetch_sub(1, Relaxed) == 1 {
            self.activity.idle_since.set(self.activity.start, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        Limits {
            request_head: 32 * SECOND,
            idle: 90 * SECOND,
            write_stall: 120 * SECOND,
            ..Limits::default()
        }
    }

    /// The verdict `after` the connection's start, give or take the milliseconds the test itself takes.
    fn judge(activity: &Activity, after: Duration, finishing: Option<Instant>) -> Verdict {
        activity.verdict(&limits(), activity.start + after, finishing)
    }

    #[test]
    fn a_client_that_never_speaks_is_dropped() {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let activity = Activity::new(protocol);
            assert_eq!(judge(&activity, SECOND, None), Verdict::Fine(activity.start + 32 * SECOND));
            assert!(matches!(judge(&activity, 32 * SECOND, None), Verdict::Drop(_)));
        }
    }

    #[test]
    fn a_request_in_flight_may_take_its_time() {
        let activity = Arc::new(Activity::new(Protocol::Http1));
        let request = InFlight::begin(Arc::clone(&activity));
        activity.has_read();
        assert!(matches!(judge(&activity, 10_000 * SECOND, None), Verdict::Fine(_)));
        drop(request);
        assert!(matches!(judge(&activity, 60 * SECOND, None), Verdict::Fine(_)));
        assert!(matches!(judge(&activity, 91 * SECOND, None), Verdict::Finish(_)));
    }

    #[test]
    fn a_dribbled_second_head_is_dropped() {
        let activity = Arc::new(Activity::new(Protocol::Http1));
        drop(InFlight::begin(Arc::clone(&activity)));
        activity.has_read();
        assert!(matches!(judge(&activity, 30 * SECOND, None), Verdict::Fine(_)));
        activity.has_read();
        assert!(matches!(judge(&activity, 33 * SECOND, None), Verdict::Drop(_)));
    }

    #[test]
    fn http2_control_frames_are_no_slow_head() {
        let activity = Arc::new(Activity::new(Protocol::Http2));
        activity.has_read();
        assert!(matches!(judge(&activity, 60 * SECOND, None), Verdict::Fine(_)));
        assert!(matches!(judge(&activity, 90 * SECOND, None), Verdict::Finish(_)));
    }

    #[test]
    fn an_answer_nobody_reads_is_dropped_unless_it_is_long_running() {
        let activity = Arc::new(Activity::new(Protocol::Http1));
        let mut request = InFlight::begin(Arc::clone(&activity));
        activity.is_blocked();
        assert!(matches!(judge(&activity, 119 * SECOND, None), Verdict::Fine(_)));
        assert!(matches!(judge(&activity, 121 * SECOND, None), Verdict::Drop(_)));
        request.be_patient();
        assert!(matches!(judge(&activity, 121 * SECOND, None), Verdict::Fine(_)));
        drop(request);
        assert!(matches!(judge(&activity, 121 * SECOND, None), Verdict::Drop(_)));
        activity.has_written();
        assert!(matches!(judge(&activity, 61 * SECOND, None), Verdict::Fine(_)));
    }

    #[test]
    fn an_http2_client_that_takes_nothing_of_its_answers_is_dropped() {
        let activity = Arc::new(Activity::new(Protocol::Http2));
        let mut stuck = InFlight::begin(Arc::clone(&activity));
        let mut other = InFlight::begin(Arc::clone(&activity));
        stuck.offers();
        other.offers();
        // The socket is not blocked.
        activity.has_written();
        assert!(matches!(judge(&activity, 119 * SECOND, None), Verdict::Fine(_)));
        assert!(matches!(judge(&activity, 121 * SECOND, None), Verdict::Drop(_)));
        other.be_patient();
        assert!(matches!(judge(&activity, 121 * SECOND, None), Verdict::Fine(_)));
        drop(other);
        assert!(matches!(judge(&activity, 121 * SECOND, None), Verdict::Drop(_)));
        stuck.is_taken();
        assert!(matches!(judge(&activity, 10_000 * SECOND, None), Verdict::Fine(_)));
    }

    #[test]
    fn ending_waits_for_requests_and_for_nothing_else() {
        let activity = Arc::new(Activity::new(Protocol::Http2));
        assert!(matches!(judge(&activity, 2 * SECOND, Some(activity.start)), Verdict::Drop(_)));
        let request = InFlight::begin(Arc::clone(&activity));
        assert!(matches!(judge(&activity, 60 * SECOND, Some(activity.start)), Verdict::Fine(_)));
        drop(request);
        assert!(matches!(judge(&activity, 4 * SECOND, Some(activity.start)), Verdict::Fine(_)));
        assert!(matches!(judge(&activity, 6 * SECOND, Some(activity.start)), Verdict::Drop(_)));
    }
}
