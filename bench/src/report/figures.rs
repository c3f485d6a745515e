//! How numbers are written.

use crate::stats::Spread;

/// As many decimals as make three digits.
pub fn three_digits(figure: f64) -> String {
    let decimals = match figure {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{figure:.decimals$}")
}

/// A whole number with commas.
pub fn thousands(figure: f64) -> String {
    let digits = format!("{:.0}", figure.abs());
    let mut text = String::from(if figure <= -0.5 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Median and quartiles on one line.
pub fn ratio(spread: Spread) -> String {
    format!("{:.2} ({:.2}–{:.2})", spread.median, spread.quartile_1, spread.quartile_3)
}

/// A rate a second, short: 212 k, 1.26 M.
pub fn rate(per_second: f64) -> String {
    match per_second {
        1e6.. => format!("{} M", three_digits(per_second / 1e6)),
        1e4.. => format!("{:.0} k", per_second / 1e3),
        1e3.. => format!("{} k", three_digits(per_second / 1e3)),
        _ => format!("{per_second:.0}"),
    }
}

/// A time, short: 41 µs, 1.26 ms, 2.1 s.
pub fn duration_us(us: f64) -> String {
    match us {
        1e6.. => format!("{} s", three_digits(us / 1e6)),
        1e3.. => format!("{} ms", three_digits(us / 1e3)),
        100.0.. => format!("{us:.0} µs"),
        _ => format!("{} µs", three_digits(us)),
    }
}

/// A share in percent: 99 %, 4.2 %, 0.03 %.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        share @ 10.0.. => format!("{share:.0} %"),
        share @ 1.0.. => format!("{share:.1} %"),
        share => format!("{share:.2} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(1_234_567.4), "1,234,567");
        assert_eq!(thousands(-12.0), "-12");
        assert_eq!(thousands(-0.2), "0");
        assert_eq!([0.264, 3.951, 22.14, 178.2].map(three_digits), ["0.26", "3.95", "22.1", "178"]);
        assert_eq!([812.0, 5210.0, 212_400.0, 1_260_000.0].map(rate), ["812", "5.21 k", "212 k", "1.26 M"]);
        assert_eq!([4.2, 41.3, 260.0, 1260.0].map(duration_us), ["4.20 µs", "41.3 µs", "260 µs", "1.26 ms"]);
        assert_eq!([0.991, 0.042, 0.0003].map(percent), ["99 %", "4.2 %", "0.03 %"]);
    }
}
