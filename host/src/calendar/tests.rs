use super::*;

const SECOND: i64 = 1_000_000;

fn micros(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_microsecond()
}

fn text(micros: i64) -> String {
    Timestamp::from_microsecond(micros).unwrap().to_string()
}

fn times(expression: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
    let repeat = Repeat::cron(expression, zone).unwrap();
    std::iter::successors(repeat.after(micros(from)), |time| repeat.after(*time)).take(count).map(text).collect()
}

#[test]
fn c13_a_calendar_keeps_to_its_zone() {
    let berlin = times("30 9 * * MON-FRI", "Europe/Berlin", "2026-03-26T12:00:00Z", 3);
    // Friday in winter time; Monday, after the change, in summer time.
    assert_eq!(berlin, ["2026-03-27T08:30:00Z", "2026-03-30T07:30:00Z", "2026-03-31T07:30:00Z"]);
    assert_eq!(times("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", 2), ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]);
}

#[test]
fn c13_a_fixed_time_in_a_gap_fires_right_after_it_and_in_an_overlap_once() {
    // 2026-03-29: 02:00 to 03:00 does not exist; 2026-10-25: 02:00 to 03:00 comes twice.
    let gap = times("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
    assert_eq!(gap, ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"], "03:00 in summer time");
    let overlap = times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
    assert_eq!(overlap, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"], "the first of the two");
}

#[test]
fn c13_a_pattern_follows_the_wall_clock_through_gap_and_overlap() {
    let gap = times("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:29:00Z", 3);
    assert_eq!(gap, ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]);
    let overlap = times("*/30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 5);
    let expected =
        ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:00:00Z"];
    assert_eq!(overlap, expected);
}

#[test]
fn c13_what_is_no_calendar_is_refused_with_the_reason() {
    for (expression, zone, reason) in [
        ("", "UTC", "no cron expression"),
        ("* * * *", "UTC", "five fields"),
        ("* * * * * *", "UTC", "five fields"),
        ("61 * * * *", "UTC", "61 * * * *"),
        ("* * * * *", "Europe/Atlantis", "`Europe/Atlantis`"),
        ("* * * * *", "", "no time zone ``"),
    ] {
        let error = Repeat::cron(expression, zone).unwrap_err();
        assert!(error.contains(reason), "{expression:?} {zone:?}: {error}");
    }
}

#[test]
fn c13_what_never_matches_has_no_next_time_and_is_soon_known() {
    let started = std::time::Instant::now();
    for never in ["0 0 30 2 *", "* * 31 4,6,9,11 *", "*/5 * 30-31 2 *"] {
        assert_eq!(Repeat::cron(never, "Europe/Berlin").unwrap().after(micros("2026-01-01T00:00:00Z")), None, "{never}");
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(1), "{:?}", started.elapsed());
}

#[test]
fn c13_periods_have_bounds() {
    assert!(Repeat::every(1_000_000).is_ok() && Repeat::every(*PERIODS.end()).is_ok());
    for bad in [0, 999_999, PERIODS.end() + 1, u64::MAX] {
        assert!(Repeat::every(bad).unwrap_err().contains("between 1 second and 3,660 days"));
    }
}

#[test]
fn c13_missed_once_fires_the_latest_time_and_goes_on() {
    let hourly = Repeat::every(3_600 * SECOND as u64).unwrap();
    let (due, now) = (micros("2026-01-01T00:00:00Z"), micros("2026-01-01T05:30:00Z"));
    let plan = hourly.plan(Missed::Once, due, now, 500);
    let expected = Plan { fire: vec![micros("2026-01-01T05:00:00Z")], next: Some(micros("2026-01-01T06:00:00Z")) };
    assert_eq!(plan, expected);
    let cron = Repeat::cron("0 * * * *", "UTC").unwrap();
    assert_eq!(cron.plan(Missed::Once, due, now, 500), expected);
    assert_eq!(cron.plan(Missed::Once, due, due, 500).fire, [due], "on time");
}

#[test]
fn c13_missed_skip_leaves_out_what_is_late_or_has_a_successor() {
    let hourly = Repeat::cron("0 * * * *", "UTC").unwrap();
    let due = micros("2026-01-01T00:00:00Z");
    let on_time = hourly.plan(Missed::Skip, due, due + 60 * SECOND, 500);
    assert_eq!(on_time, Plan { fire: vec![due], next: Some(due + 3_600 * SECOND) });
    let late = hourly.plan(Missed::Skip, due, due + 61 * SECOND, 500);
    assert_eq!(late, Plan { fire: vec![], next: Some(due + 3_600 * SECOND) });
    let secondly = Repeat::every(SECOND as u64).unwrap();
    let behind = secondly.plan(Missed::Skip, due, due + 5 * SECOND + 1, 500);
    assert_eq!(behind, Plan { fire: vec![due + 5 * SECOND], next: Some(due + 6 * SECOND) });
}

#[test]
fn c13_missed_all_fires_each_time_in_order_some_at_once() {
    let minutely = Repeat::cron("* * * * *", "UTC").unwrap();
    let due = micros("2026-01-01T00:00:00Z");
    let minute = 60 * SECOND;
    let some = minutely.plan(Missed::All, due, due + 10 * minute, 3);
    assert_eq!(some, Plan { fire: vec![due, due + minute, due + 2 * minute], next: Some(due + 3 * minute) });
    let rest = minutely.plan(Missed::All, due + 3 * minute, due + 5 * minute + 1, 500);
    assert_eq!(rest, Plan { fire: vec![due + 3 * minute, due + 4 * minute, due + 5 * minute], next: Some(due + 6 * minute) });
}

#[test]
fn c13_the_end_of_time_ends_a_job() {
    let yearly = Repeat::every(*PERIODS.end()).unwrap();
    let due = *TIMES.end() - 1;
    assert_eq!(yearly.plan(Missed::Once, due, due, 1), Plan { fire: vec![due], next: None });
}

#[test]
fn c13_looking_back_finds_the_same_times_as_going_forward() {
    for expression in ["30 2 * * *", "*/30 * * * *", "*/30 2 * * *", "15 2 * * SUN", "0 3 * * *"] {
        for (from, to) in [("2026-03-27T00:00:00Z", "2026-03-31T00:00:00Z"), ("2026-10-23T00:00:00Z", "2026-10-27T00:00:00Z")] {
            let repeat = Repeat::cron(expression, "Europe/Berlin").unwrap();
            let mut due = repeat.after(micros(from)).unwrap();
            while due < micros(to) {
                let next = repeat.after(due).unwrap();
                for now in [due, due + 1, next - 1] {
                    assert_eq!(text(repeat.latest(due, now)), text(due), "{expression} at {}", text(now));
                    assert_eq!(text(repeat.latest(micros(from), now)), text(due), "{expression} at {}", text(now));
                }
                due = next;
            }
        }
    }
}

#[test]
fn c13_days_can_be_named_and_counted_from_the_end() {
    let from = "2026-02-01T00:00:00Z";
    for (expression, expected) in [
        ("0 0 L * *", "2026-02-28T00:00:00Z"),
        ("0 0 15W * *", "2026-02-16T00:00:00Z"),
        ("0 0 * * FRI#2", "2026-02-13T00:00:00Z"),
        ("@daily", "2026-02-02T00:00:00Z"),
        ("0 0 * * 7", "2026-02-08T00:00:00Z"),
        ("0 0 13 * FRI", "2026-02-06T00:00:00Z"),
    ] {
        assert_eq!(times(expression, "UTC", from, 1), [expected], "{expression}");
    }
}
