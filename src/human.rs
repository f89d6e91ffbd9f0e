//! Numbers of bytes as people read them, in messages.

use std::fmt::{Display, Formatter, Result};

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Shown in the largest unit that it fills, as the progress bar shows sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Display for Bytes {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let Bytes(bytes) = *self;
        match bytes.checked_ilog2().unwrap_or(0) / 10 {
            0 => write!(out, "{bytes} B"),
            step => {
                let number = bytes as f64 / (1u64 << (step * 10)) as f64;
                write!(out, "{number:.2} {}", UNITS[step as usize - 1])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_unit_that_is_filled_is_taken() {
        let shown =
            [0, 1023, 1024, 3 << 19, 5 << 30, u64::MAX].map(|bytes| Bytes(bytes).to_string());
        let expected = [
            "0 B",
            "1023 B",
            "1.00 KiB",
            "1.50 MiB",
            "5.00 GiB",
            "16.00 EiB",
        ];
        assert_eq!(shown, expected);
    }
}
