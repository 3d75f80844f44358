use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ginnel_local_api::Timestamp;

/// The present, in seconds since 1970.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
}

/// How long before `now` something was, in one or two units, as `3 min ago`.
pub(crate) fn ago(now: Timestamp, then: Option<Timestamp>) -> String {
    match then {
        None => "never".to_owned(),
        Some(then) if then.unix() > now.unix() + 1 => then.to_string(),
        Some(then) => match now.unix().saturating_sub(then.unix()) {
            0 | 1 => "just now".to_owned(),
            seconds => format!("{} ago", length(seconds)),
        },
    }
}

/// A length of time in its largest unit.
pub(crate) fn length(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A count of bytes in a unit that keeps it short.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} PiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_told_in_its_largest_unit() {
        let at = Timestamp::from_unix;
        assert_eq!(ago(at(1_000), None), "never");
        assert_eq!(ago(at(1_000), Some(at(1_000))), "just now");
        assert_eq!(ago(at(1_000), Some(at(910))), "90 s ago");
        assert_eq!(ago(at(10_000), Some(at(1_000))), "2 h ago");
        assert_eq!(ago(at(0), Some(at(86_400))), "1970-01-02T00:00:00Z");
    }

    #[test]
    fn bytes_are_told_in_a_unit_that_keeps_them_short() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }
}
