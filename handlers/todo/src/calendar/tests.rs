use jiff::civil::date;

use super::*;

/// Days from a due date to its completion: early, in time, late by days around the lengths of weeks, months and years, and by decades.
const DELAYS: [i64; 22] = [-800, -366, -32, -7, -1, 0, 1, 2, 6, 7, 8, 27, 28, 29, 30, 31, 32, 59, 364, 365, 366, 11_000];

fn days(date: Date, count: i64) -> Date {
    date.checked_add(SignedDuration::from_hours(24 * count)).unwrap()
}

/// Every day from 1999 to 2060.
fn starts() -> impl Iterator<Item = Date> {
    date(1999, 1, 1).series(jiff::Span::new().days(1)).take_while(|day| day.year() <= 2060)
}

/// Whether the rule names a day, said without any arithmetic of the calendar's own.
fn names(rule: Rule, due: Date, anchor: i8, day: Date) -> bool {
    let on_anchor = day.day() == anchor || (day.day() < anchor && day.day() == day.days_in_month());
    match rule {
        Rule::Daily => true,
        Rule::Weekly => day.weekday() == due.weekday(),
        Rule::Monthly => on_anchor,
        Rule::Yearly => on_anchor && day.month() == due.month(),
        Rule::Weekdays => !matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday),
    }
}

/// The first day after both that the rule names, found by walking.
fn first_named(rule: Rule, due: Date, anchor: i8, completed: Date) -> Date {
    let mut day = due.max(completed).tomorrow().unwrap();
    while !names(rule, due, anchor, day) {
        day = day.tomorrow().unwrap();
    }
    day
}

#[test]
fn every_next_date_is_the_first_after_due_and_completion_that_the_rule_names() {
    for due in starts() {
        for rule in Rule::ALL {
            for delay in DELAYS {
                let completed = days(due, delay);
                let next = rule.next(Some(due), None, completed).unwrap();
                assert!(next.due_date > completed && next.due_date > due, "{rule:?} {due} {completed}: {next:?}");
                assert_eq!(next.due_date, first_named(rule, due, due.day(), completed), "{rule:?} {due} {completed}");
                let keeps = matches!(rule, Rule::Monthly | Rule::Yearly);
                assert_eq!(next.anchor_day, keeps.then_some(due.day()), "{rule:?} {due} {completed}");
            }
        }
    }
}

#[test]
fn a_short_month_keeps_the_anchor_of_its_series() {
    for last in starts().filter(|day| day.tomorrow().is_ok_and(|next| next.day() == 1)) {
        for anchor in last.day()..=31 {
            for rule in [Rule::Monthly, Rule::Yearly] {
                for delay in DELAYS {
                    let completed = days(last, delay);
                    let next = rule.next(Some(last), Some(anchor), completed).unwrap();
                    assert_eq!(next.anchor_day, Some(anchor));
                    assert_eq!(next.due_date, first_named(rule, last, anchor, completed), "{rule:?} {last} {anchor} {completed}");
                }
            }
        }
    }
}

#[test]
fn without_a_due_date_the_rule_counts_from_the_completion() {
    for completed in starts() {
        for rule in Rule::ALL {
            assert_eq!(rule.next(None, None, completed), rule.next(Some(completed), None, completed));
            assert_eq!(rule.next(None, Some(31), completed), rule.next(Some(completed), Some(31), completed));
        }
    }
}

/// The due dates of a series, each completed so many days after it was due.
fn series(rule: Rule, first: Date, late: impl Fn(usize) -> i64, length: usize) -> Vec<Date> {
    let mut last = Next { due_date: first, anchor_day: None };
    let next = |step: usize| {
        last = rule.next(Some(last.due_date), last.anchor_day, days(last.due_date, late(step))).unwrap();
        last.due_date
    };
    (0..length).map(next).collect()
}

#[test]
fn a_thousand_steps_do_not_drift() {
    for first in
        ["1999-12-31", "2000-02-29", "2026-01-31", "2026-01-30", "2026-02-28", "2026-04-15"].map(|text| text.parse().unwrap())
    {
        let first: Date = first;
        for (number, due) in (1..).zip(series(Rule::Monthly, first, |_| 0, 1_000)) {
            assert_eq!(month_number(due), month_number(first) + number, "each month once");
            assert_eq!(due.day(), first.day().min(due.days_in_month()), "{first} {due}");
        }
        for (number, due) in (1..).zip(series(Rule::Yearly, first, |_| -1, 1_000)) {
            assert_eq!((due.year(), due.month()), (first.year() + number, first.month()));
            assert_eq!(due.day(), first.day().min(due.days_in_month()), "{first} {due}");
        }
        let weekly = series(Rule::Weekly, first, |step| i64::try_from(step % 7).unwrap(), 1_000);
        assert!(weekly.iter().zip(1..).all(|(due, week)| *due == days(first, 7 * week)), "late by less than a week skips none");
        // However late each is done, the weekday and the day of the month stay.
        let late = |step: usize| i64::try_from(step * 37 % 101).unwrap();
        assert!(series(Rule::Weekly, first, late, 1_000).iter().all(|due| due.weekday() == first.weekday()));
        let monthly = series(Rule::Monthly, first, late, 1_000);
        assert!(monthly.iter().all(|due| due.day() == first.day().min(due.days_in_month())));
        assert_eq!(series(Rule::Daily, first, |_| 0, 1_000).last(), Some(&days(first, 1_000)));
    }
}

#[test]
fn a_series_in_time_meets_each_working_day_once() {
    let monday = date(2026, 2, 9);
    let week = series(Rule::Weekdays, monday, |_| 0, 5);
    assert_eq!(week, [10, 11, 12, 13, 16].map(|day| date(2026, 2, day)));
    let due = series(Rule::Weekdays, monday, |_| 0, 1_000);
    assert_eq!(due.last(), Some(&days(monday, 200 * 7)));
}

#[test]
fn the_examples_of_the_product() {
    let next = |rule: Rule, due, anchor, completed| rule.next(Some(due), anchor, completed).unwrap().due_date;
    assert_eq!(next(Rule::Monthly, date(2026, 1, 31), None, date(2026, 1, 31)), date(2026, 2, 28));
    assert_eq!(next(Rule::Monthly, date(2028, 1, 31), None, date(2028, 1, 20)), date(2028, 2, 29));
    assert_eq!(next(Rule::Monthly, date(2026, 2, 28), Some(31), date(2026, 3, 1)), date(2026, 3, 31));
    assert_eq!(next(Rule::Monthly, date(2026, 1, 31), None, date(2026, 2, 28)), date(2026, 3, 31), "after the completion");
    assert_eq!(next(Rule::Yearly, date(2024, 2, 29), None, date(2024, 2, 29)), date(2025, 2, 28));
    assert_eq!(next(Rule::Yearly, date(2027, 2, 28), Some(29), date(2027, 2, 28)), date(2028, 2, 29));
    assert_eq!(next(Rule::Daily, date(2026, 2, 10), None, date(2026, 2, 10)), date(2026, 2, 11));
    assert_eq!(next(Rule::Daily, date(2026, 2, 10), None, date(2026, 2, 8)), date(2026, 2, 11), "early is no reason for less");
    assert_eq!(next(Rule::Weekdays, date(2026, 2, 13), None, date(2026, 2, 13)), date(2026, 2, 16));
    assert_eq!(next(Rule::Weekly, date(2026, 2, 10), None, date(2026, 2, 24)), date(2026, 3, 3), "never on the completion's day");
}

#[test]
fn a_due_date_that_was_moved_is_the_new_anchor() {
    let next = |due, anchor| Rule::Monthly.next(Some(due), Some(anchor), due).unwrap();
    assert_eq!(next(date(2026, 2, 10), 31), Next { due_date: date(2026, 3, 10), anchor_day: Some(10) });
    assert_eq!(next(date(2026, 3, 30), 31), Next { due_date: date(2026, 4, 30), anchor_day: Some(30) });
    assert_eq!(next(date(2026, 3, 31), 28), Next { due_date: date(2026, 4, 30), anchor_day: Some(31) });
}

#[test]
fn the_calendar_ends_with_the_year_9999() {
    for rule in Rule::ALL {
        assert_eq!(rule.next(Some(date(9999, 12, 31)), None, date(2026, 2, 10)), None, "{rule:?}");
        assert_eq!(rule.next(Some(date(2026, 2, 10)), None, Date::MAX), None, "{rule:?}");
        assert!(rule.next(Some(Date::MIN), None, Date::MIN).is_some(), "{rule:?}");
        assert!(rule.next(Some(date(1, 1, 1)), None, date(9998, 12, 30)).is_some(), "{rule:?}");
    }
}

#[test]
fn names_are_what_tasks_and_events_have() {
    for rule in Rule::ALL {
        assert_eq!(serde_json::to_value(rule).unwrap(), rule.name());
        assert_eq!(serde_json::from_value::<Rule>(rule.name().into()).unwrap(), rule);
    }
    assert!(serde_json::from_str::<Rule>("\"hourly\"").is_err());
}
