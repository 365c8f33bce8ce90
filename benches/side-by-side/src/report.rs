//! The tables, in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::load::Sample;
use crate::peers::Peer;
use crate::scenario::Scenario;

/// The samples of every round, by scenario (an index) and peer.
pub(crate) type Samples = BTreeMap<(usize, Peer), Vec<Sample>>;

/// What is done per CPU-second, each as its ratio to the baseline of the same round; medians over rounds.
pub(crate) fn efficiency(
    scenarios: &[Scenario],
    peers: &[Peer],
    baseline: Peer,
    samples: &Samples,
) -> String {
    let columns: Vec<_> = peers.iter().copied().filter(|peer| *peer != Peer::Direct).collect();
    table(scenarios, &columns, |row, scenario, peer| {
        let own = samples.get(&(row, peer))?;
        let absolute: Vec<_> = own.iter().filter_map(|sample| per_cpu_second(scenario, sample)).collect();
        let absolute = amount(scenario, median(&absolute)?);
        let ratios: Vec<_> = samples
            .get(&(row, baseline))
            .into_iter()
            .flatten()
            .zip(own)
            .filter_map(|(base, own)| Some(per_cpu_second(scenario, own)? / per_cpu_second(scenario, base)?))
            .collect();
        let cell = match median(&ratios) {
            Some(ratio) if peer != baseline => format!("**{ratio:.2}** ({absolute})"),
            Some(_) => format!("1 ({absolute})"),
            None => format!("({absolute})"),
        };
        Some(cell + &errors(own))
    })
}

/// What the clock on the wall says: throughput, and the time of one operation.
pub(crate) fn throughput(scenarios: &[Scenario], peers: &[Peer], samples: &Samples) -> String {
    table(scenarios, peers, |row, scenario, peer| {
        let own = samples.get(&(row, peer))?;
        let rate: Vec<_> =
            own.iter().map(|sample| count(scenario, sample) / sample.wall.as_secs_f64()).collect();
        let mut cell = amount(scenario, median(&rate)?);
        if !scenario.bulk() {
            let [p50, p99] = [|sample: &Sample| sample.p50, |sample: &Sample| sample.p99]
                .map(|pick| median(&own.iter().map(|s| pick(s).as_secs_f64() * 1e6).collect::<Vec<_>>()));
            write!(cell, "; {:.0}/{:.0} µs", p50?, p99?).ok()?;
        }
        Some(cell + &errors(own))
    })
}

/// The largest distance of a round from its cell's median, in percent of the median.
pub(crate) fn spread(scenarios: &[Scenario], samples: &Samples) -> f64 {
    samples
        .iter()
        .filter_map(|((row, _), own)| {
            let scenario = scenarios.get(*row)?;
            let values: Vec<_> = own.iter().filter_map(|sample| per_cpu_second(scenario, sample)).collect();
            let middle = median(&values)?;
            values.iter().map(|value| (value / middle - 1.0).abs() * 100.0).max_by(f64::total_cmp)
        })
        .max_by(f64::total_cmp)
        .unwrap_or(0.0)
}

/// Every error that a sample has seen, one line each.
pub(crate) fn complaints(scenarios: &[Scenario], samples: &Samples) -> Vec<String> {
    samples
        .iter()
        .flat_map(|((row, peer), own)| own.iter().map(move |sample| (row, peer, sample)))
        .filter_map(|(row, peer, sample)| {
            let (name, first) = (scenarios.get(*row)?.name, sample.first_error.as_deref()?);
            Some(format!("{}, {name}: {} errors, the first: {first}", peer.name(), sample.errors))
        })
        .collect()
}

fn table(
    scenarios: &[Scenario],
    columns: &[Peer],
    cell: impl Fn(usize, &Scenario, Peer) -> Option<String>,
) -> String {
    let mut text = String::from("| |");
    columns.iter().for_each(|peer| text.extend([" ", peer.name(), " |"]));
    text.push_str("\n| --- |");
    columns.iter().for_each(|_| text.push_str(" --- |"));
    for (row, scenario) in scenarios.iter().enumerate() {
        text.extend(["\n| ", scenario.name, " |"]);
        for peer in columns {
            text.extend([" ", &cell(row, scenario, *peer).unwrap_or_else(|| "–".to_owned()), " |"]);
        }
    }
    text + "\n"
}

fn count(scenario: &Scenario, sample: &Sample) -> f64 {
    (if scenario.bulk() { sample.bytes } else { sample.operations }) as f64
}

/// None where there is no proxy, or where it did nothing.
fn per_cpu_second(scenario: &Scenario, sample: &Sample) -> Option<f64> {
    let (count, cpu) = (count(scenario, sample), sample.cpu.as_secs_f64());
    (count > 0.0 && cpu > 0.0).then(|| count / cpu)
}

fn amount(scenario: &Scenario, value: f64) -> String {
    match (scenario.bulk(), value) {
        (true, value) => format!("{:.0} MB", value / 1e6),
        (false, 10_000.0..) => format!("{:.1}k", value / 1e3),
        (false, value) => format!("{value:.0}"),
    }
}

fn errors(samples: &[Sample]) -> String {
    match samples.iter().map(|sample| sample.errors).sum::<u64>() {
        0 => String::new(),
        errors => format!(" ⚠ {errors} errors"),
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => sorted.get(middle).copied(),
        _ => Some((sorted.get(middle - 1)? + sorted.get(middle)?) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scenario::ALL;

    fn sample(operations: u64, cpu_ms: u64, errors: u64) -> Sample {
        Sample {
            operations,
            bytes: 0,
            errors,
            first_error: (errors > 0).then(|| "refused".to_owned()),
            wall: Duration::from_secs(1),
            cpu: Duration::from_millis(cpu_ms),
            p50: Duration::from_micros(80),
            p99: Duration::from_micros(200),
        }
    }

    fn two_peers() -> Samples {
        let own = vec![sample(100, 100, 0), sample(300, 100, 0), sample(150, 100, 2)];
        let base = vec![sample(200, 100, 0), sample(200, 100, 0), sample(200, 100, 0)];
        Samples::from([((0, Peer::Clusterway), own), ((0, Peer::Haproxy), base)])
    }

    #[test]
    fn ratios_are_medians_over_rounds_and_errors_show() {
        let peers = [Peer::Direct, Peer::Clusterway, Peer::Haproxy, Peer::Nginx];
        let text = efficiency(&ALL[..1], &peers, Peer::Haproxy, &two_peers());
        let last = text.lines().last().unwrap();
        assert_eq!(last, "| GET 2 KB, h1, 1 connection | **0.75** (1500) ⚠ 2 errors | 1 (2000) | – |");
    }

    #[test]
    fn without_the_baseline_only_absolute_numbers_are_shown() {
        let text = efficiency(&ALL[..1], &[Peer::Clusterway], Peer::HaproxyH1, &two_peers());
        assert!(text.ends_with("| (1500) ⚠ 2 errors |\n"), "{text}");
    }

    #[test]
    fn the_spread_is_that_of_the_worst_cell() {
        assert_eq!(spread(&ALL, &two_peers()).round(), 100.0);
        assert_eq!(complaints(&ALL, &two_peers()).len(), 1);
    }
}
