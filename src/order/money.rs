//! Money as integer minor units with the currency's number of decimals (ISO 4217: JOD, KWD and BHD have 3, JPY has 0).
//!
//! Amounts are read from the text of the JSON, never through a float: 16.24 JOD is 16240, exactly.

use std::{fmt, str::FromStr};

use iso_currency::Currency as Iso;
use rust_decimal::{Decimal, prelude::ToPrimitive};
use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::value::RawValue;

/// Longest text of an amount that is looked at; an honest one has a dozen characters.
const MAX_AMOUNT_CHARS: usize = 40;

/// A currency and how many decimals it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Currency {
    iso: Iso,
    exponent: u32,
}

impl Currency {
    /// ISO 4217 code, `JOD`.
    pub fn code(self) -> &'static str {
        self.iso.code()
    }

    /// Number of decimals, 3 for JOD.
    pub const fn exponent(self) -> u32 {
        self.exponent
    }
}

impl FromStr for Currency {
    type Err = UnknownCurrency;

    fn from_str(code: &str) -> Result<Self, Self::Err> {
        let iso = Iso::from_code(code).ok_or_else(|| UnknownCurrency(code.to_owned()))?;
        // Some codes (gold, special drawing rights) have no minor unit; nobody pays for a meal in them.
        let exponent = iso.exponent().ok_or_else(|| UnknownCurrency(code.to_owned()))?;
        Ok(Self {
            iso,
            exponent: u32::from(exponent),
        })
    }
}

/// Not a code of ISO 4217 that has a minor unit.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an ISO 4217 currency code such as JOD")]
pub struct UnknownCurrency(pub String);

/// An amount of one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Money {
    /// In the currency's smallest unit: 16240 for 16.240 JOD.
    pub minor: i64,
    /// Of which currency.
    pub currency: Currency,
}

impl Money {
    /// Reads decimal text (`16.24`, `-0.5`, `1.1e1`) as it stands in JSON.
    ///
    /// # Errors
    /// Where it is no decimal number, has more decimals than the currency (trailing zeros are fine), or is beyond
    /// what 64 bits hold.
    pub fn parse(text: &str, currency: Currency) -> Result<Self, AmountError> {
        Self::of(Self::parse_decimal(text)?, currency)
    }

    /// Reads an integer of units of which `10^decimals` make one of the currency: cents, or Uber's `amount_e5`.
    ///
    /// # Errors
    /// As [`Self::parse`]; also where it is no integer.
    pub fn parse_units(text: &str, decimals: u32, currency: Currency) -> Result<Self, AmountError> {
        let whole = Self::parse_decimal(text).map_err(|error| match error {
            AmountError::NotANumber => AmountError::NotAnInteger,
            error => error,
        })?;
        if whole.scale() > 0 {
            return Err(AmountError::NotAnInteger);
        }
        let units = Decimal::try_from_i128_with_scale(whole.mantissa(), decimals).map_err(|_| AmountError::Range)?;
        Self::of(units, currency)
    }

    /// None of this currency.
    pub const fn zero(currency: Currency) -> Self {
        Self { minor: 0, currency }
    }

    /// The sum, where it is within range.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            minor: self.minor.saturating_add(other.minor),
            ..self
        }
    }

    /// So many times as much, rounded half away from zero to the smallest unit; within range.
    #[must_use]
    pub fn times(self, quantity: Decimal) -> Self {
        let product = Decimal::from(self.minor).checked_mul(quantity);
        let minor = product.and_then(|product| {
            product
                .round_dp_with_strategy(0, rust_decimal::RoundingStrategy::MidpointAwayFromZero)
                .to_i64()
        });
        Self {
            minor: minor.unwrap_or(i64::MAX),
            ..self
        }
    }

    fn parse_decimal(text: &str) -> Result<Decimal, AmountError> {
        if text.len() > MAX_AMOUNT_CHARS {
            return Err(AmountError::Range);
        }
        let decimal = if text.contains(['e', 'E']) {
            Decimal::from_scientific(text)
        } else {
            Decimal::from_str_exact(text)
        };
        Ok(decimal.map_err(|_| AmountError::NotANumber)?.normalize())
    }

    fn of(decimal: Decimal, currency: Currency) -> Result<Self, AmountError> {
        let decimal = decimal.normalize();
        if decimal.scale() > currency.exponent {
            return Err(AmountError::TooManyDecimals {
                code: currency.code(),
                decimals: currency.exponent,
            });
        }
        let factor = 10i128.pow(currency.exponent - decimal.scale());
        let minor = decimal.mantissa().checked_mul(factor).ok_or(AmountError::Range)?;
        Ok(Self {
            minor: i64::try_from(minor).map_err(|_| AmountError::Range)?,
            currency,
        })
    }
}

impl fmt::Display for Money {
    /// Decimal text with all of the currency's decimals: `16.240`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}",
            Decimal::from_i128_with_scale(i128::from(self.minor), self.currency.exponent)
        )
    }
}

impl Serialize for Money {
    /// A JSON number with all of the currency's decimals (`16.240`): exact for a reader that keeps the text, a plain
    /// number for every other.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_string())
            .map_err(S::Error::custom)?
            .serialize(serializer)
    }
}

/// Why a text is no amount of a currency.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a decimal number.
    #[error("expected a decimal number")]
    NotANumber,
    /// 4.5 cents.
    #[error("expected a whole number")]
    NotAnInteger,
    /// 1.2345 JOD.
    #[error("more decimals than {code} has ({decimals})")]
    TooManyDecimals {
        /// ISO 4217 code.
        code: &'static str,
        /// How many it has.
        decimals: u32,
    },
    /// Beyond 64 bits of minor units.
    #[error("amount out of range")]
    Range,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn jod() -> Currency {
        "JOD".parse().unwrap()
    }

    #[test]
    fn exact_from_text() {
        for (text, minor, shown) in [
            ("11.0", 11_000, "11.000"),
            ("16.24", 16_240, "16.240"),
            ("4.5", 4_500, "4.500"),
            ("0.15", 150, "0.150"),
            ("-0.5", -500, "-0.500"),
            ("1.1e1", 11_000, "11.000"),
            ("2", 2_000, "2.000"),
            ("0.1000000", 100, "0.100"),
            ("9007199254740993", 9_007_199_254_740_993_000, "9007199254740993.000"),
        ] {
            let money = Money::parse(text, jod()).unwrap();
            assert_eq!((money.minor, money.to_string().as_str()), (minor, shown), "{text}");
        }
        assert_eq!(Money::parse("500", "JPY".parse().unwrap()).unwrap().to_string(), "500");
        // As long as a text may be, and one more.
        let zeros = |count: usize| Money::parse(&format!("1.{}", "0".repeat(count)), jod());
        assert_eq!(zeros(26).unwrap().minor, 1000);
        assert_eq!(
            Money::parse(&format!("{}1", "0".repeat(39)), jod()).map(|money| money.minor),
            Ok(1000)
        );
        assert_eq!(
            Money::parse(&format!("{}1", "0".repeat(40)), jod()),
            Err(AmountError::Range)
        );
    }

    #[test]
    fn refuses_what_is_no_amount() {
        for text in ["", "abc", "1,5", "0x10", "NaN", "1.2.3", "--1", "٣"] {
            assert_eq!(Money::parse(text, jod()), Err(AmountError::NotANumber), "{text}");
        }
        assert!(matches!(
            Money::parse("0.0001", jod()),
            Err(AmountError::TooManyDecimals { .. })
        ));
        for text in ["9223372036854775.808", "1e25", &"9".repeat(60)] {
            assert!(Money::parse(text, jod()).is_err(), "{text}");
        }
    }

    #[test]
    fn units_of_another_size() {
        let units = |text: &str, decimals: u32, code: &str| {
            Money::parse_units(text, decimals, code.parse().unwrap()).map(|money| money.minor)
        };
        assert_eq!(units("3190000", 5, "EUR"), Ok(3190));
        assert_eq!(units("1465000", 5, "JOD"), Ok(14_650));
        assert_eq!(units("50000000", 5, "JPY"), Ok(500));
        assert_eq!(units("4600", 2, "SAR"), Ok(4600));
        assert_eq!(units("-100000", 5, "EUR"), Ok(-100));
        assert!(matches!(units("1", 5, "EUR"), Err(AmountError::TooManyDecimals { .. })));
        for text in ["4.5", "four", "true", ""] {
            assert_eq!(units(text, 2, "EUR"), Err(AmountError::NotAnInteger), "{text}");
        }
        let price = Money::parse("5.5", jod()).unwrap();
        assert_eq!(price.times("2".parse().unwrap()).minor, 11_000);
        assert_eq!(
            price.times("0.3335".parse().unwrap()).minor,
            1834,
            "half away from zero"
        );
    }

    proptest! {
        #[test]
        fn text_and_minor_units_agree(minor in any::<i64>()) {
            let money = Money { minor, currency: jod() };
            prop_assert_eq!(Money::parse(&money.to_string(), jod()), Ok(money));
        }

        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let _ = Money::parse(&text, jod());
        }
    }
}
