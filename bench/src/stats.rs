//! Medians and quartiles.

use serde::{Deserialize, Serialize};

/// The middle of some figures and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub quartile_1: f64,
    pub median: f64,
    pub quartile_3: f64,
}

impl Spread {
    /// None without figures.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (figures.len() - 1) as f64;
            let (below, above) = (figures[place.floor() as usize], figures[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        (!figures.is_empty()).then(|| Self { quartile_1: at(0.25), median: at(0.5), quartile_3: at(0.75) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_interpolate() {
        assert_eq!(Spread::of([]), None);
        let spread = |figures: &[f64]| Spread::of(figures.iter().copied());
        assert_eq!(spread(&[7.0]), Some(Spread { quartile_1: 7.0, median: 7.0, quartile_3: 7.0 }));
        assert_eq!(
            spread(&[4.0, 1.0, 3.0, 2.0]),
            Some(Spread { quartile_1: 1.75, median: 2.5, quartile_3: 3.25 })
        );
    }
}
