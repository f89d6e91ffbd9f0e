//! Numbers of bytes as people write them: 500, 64k, 10M, 2G.
//!
//! What makes it right: units are powers of 1024, as for every option of these servers, and what does not fit 64 bits is refused.

pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let meant = || "a number is meant, with k, m, g or t behind it if needed".to_string();
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let shift = match unit
        .to_ascii_lowercase()
        .trim_end_matches("ib")
        .trim_end_matches('b')
    {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(meant()),
    };
    let number: u64 = digits.parse().map_err(|_| meant())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".to_string())
}

/// The shortest text that [`parse_bytes`] takes for the same number.
pub fn format_bytes(bytes: u64) -> String {
    let mut units = [(30, "G"), (20, "M"), (10, "K")].into_iter();
    let fits = |(shift, _): &(u32, &str)| bytes > 0 && bytes.trailing_zeros() >= *shift;
    match units.find(fits) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        assert_eq!(parse_bytes("500"), Ok(500));
        assert_eq!(parse_bytes("64k"), Ok(64 << 10));
        assert_eq!(parse_bytes("10MiB"), Ok(10 << 20));
        assert_eq!(parse_bytes("2G"), Ok(2 << 30));
    }

    #[test]
    fn what_is_shown_is_taken_back() {
        for (bytes, text) in [
            (0, "0"),
            (1000, "1000"),
            (64 << 10, "64K"),
            (1536 << 20, "1536M"),
            (8 << 30, "8G"),
        ] {
            assert_eq!(format_bytes(bytes), text);
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
    }

    #[test]
    fn what_is_no_number_or_too_large_is_refused() {
        for text in [
            "",
            "k",
            "-1",
            "1.5G",
            "3x",
            "99999999999999999999",
            "99999999999T",
        ] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
