//! Times as people write them.

use crate::{Error, Result};

/// Reads a time: `2024-01-31` (midnight here), `2024-01-31T12:00` (here) or `2024-01-31T12:00:00Z`.
///
/// # Errors
///
/// [`Error::Time`] when it is none of these.
pub fn parse_time(text: &str) -> Result<jiff::Timestamp> {
    if let Ok(timestamp) = text.parse() {
        return Ok(timestamp);
    }
    let here = text.parse::<jiff::civil::DateTime>().and_then(|time| time.to_zoned(jiff::tz::TimeZone::system()));
    here.map(|zoned| zoned.timestamp()).map_err(|_| Error::Time { text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_are_read() {
        assert_eq!(parse_time("1970-01-01T00:00:10Z").unwrap().as_second(), 10);
        assert!(parse_time("2024-01-31").unwrap() < parse_time("2024-02-02T10:00").unwrap());
        assert!(parse_time("yesterday").is_err() && parse_time("2024-13-01").is_err());
    }
}
