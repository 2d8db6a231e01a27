//! Money as integer minor units with the currency's number of decimals (ISO 4217: JOD, KWD and BHD have 3, JPY has 0).
//!
//! Amounts are read from the text of the JSON, never through a float: 16.24 JOD is 16240, exactly.

use std::{fmt, str::FromStr};

use iso_currency::Currency as Iso;
use rust_decimal::{Decimal, prelude::ToPrimitive};
use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::value::RawValue;

/// Longest text of an amount that is looked at. An honest one has a dozen characters; a binary float that is written out to its
/// last digit has sixty.
const MAX_AMOUNT_CHARS: usize = 80;
/// Decimals of a fraction of the smallest unit that are compared exactly.
const FRACTION_DIGITS: u32 = 18;
/// One smallest unit, in parts of that size.
const ONE: u64 = 10u64.pow(FRACTION_DIGITS);
/// A relative error of 1e-9 and less is a binary float's noise: doubles are exact to 1e-16, and sums of a few thousand of them
/// still to 1e-12.
const NOISE: u64 = ONE / 1_000_000_000;

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
        // Some codes (gold, special drawing rights) have no minor unit; no meal is paid in them.
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
    /// If it is no decimal number, has more decimals than the currency (zeros and a binary float's noise are fine), or
    /// is beyond what 64 bits hold.
    pub fn parse(text: &str, currency: Currency) -> Result<Self, AmountError> {
        let reading = Self::read(text, currency)?;
        if reading.is_rounded {
            return Err(AmountError::TooManyDecimals {
                code: currency.code(),
                decimals: currency.exponent,
            });
        }
        Ok(reading.money)
    }

    /// Reads decimal text; what has more decimals than the currency is rounded half to even.
    ///
    /// # Errors
    /// If it is no decimal number, or is beyond what 64 bits hold.
    pub fn read(text: &str, currency: Currency) -> Result<ParsedAmount, AmountError> {
        let (minor, is_rounded) = Digits::of(text)?.times_ten_to(i64::from(currency.exponent))?;
        Self::reading(minor, currency, is_rounded)
    }

    /// Reads decimal text with the currency's code after it (`9.00 EUR`), as [`Self::read`] does.
    ///
    /// # Errors
    /// The same as [`Self::read`]; also if the code is missing or is that of another currency.
    pub fn read_with_code(text: &str, currency: Currency) -> Result<ParsedAmount, AmountError> {
        let is_code = |code: &&str| code.trim().eq_ignore_ascii_case(currency.code());
        let split = text.rsplit_once(char::is_whitespace);
        let (digits, _) = split
            .filter(|(_, code)| is_code(code))
            .ok_or(AmountError::OtherCurrency { code: currency.code() })?;
        Self::read(digits.trim(), currency)
    }

    /// Reads an integer of units of which `10^decimals` make one of the currency: cents, or Uber's `amount_e5`. What is finer
    /// than the currency's smallest unit is rounded half to even.
    ///
    /// # Errors
    /// The same as [`Self::read`]; also if it is no integer: 5.5 cents mostly mean that the unit is another one.
    pub fn read_units(text: &str, decimals: u32, currency: Currency) -> Result<ParsedAmount, AmountError> {
        let digits = Digits::of(text).map_err(|error| match error {
            AmountError::NotANumber => AmountError::NotAnInteger,
            error => error,
        })?;
        let (units, is_rounded) = digits.times_ten_to(0)?;
        if is_rounded {
            return Err(AmountError::NotAnInteger);
        }
        let scale = i64::from(currency.exponent) - i64::from(decimals);
        let (minor, is_rounded) = Digits::of(&units.to_string())?.times_ten_to(scale)?;
        Self::reading(minor, currency, is_rounded)
    }

    fn reading(minor: i128, currency: Currency, is_rounded: bool) -> Result<ParsedAmount, AmountError> {
        let minor = i64::try_from(minor).map_err(|_| AmountError::Range)?;
        Ok(ParsedAmount {
            money: Self { minor, currency },
            is_rounded,
        })
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
}

/// An amount that was read, and whether it is what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParsedAmount {
    /// The amount.
    pub money: Money,
    /// Whether more was written than the currency has decimals, and more than a binary float's noise.
    pub is_rounded: bool,
}

/// The digits of a decimal number and the place of its point: the value is `0.d1d2d3… × 10^point`.
struct Digits {
    is_negative: bool,
    digits: Vec<u8>,
    point: i64,
}

impl Digits {
    fn of(text: &str) -> Result<Self, AmountError> {
        if text.len() > MAX_AMOUNT_CHARS {
            return Err(AmountError::Range);
        }
        let (is_negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (number, power) = match unsigned.split_once(['e', 'E']) {
            Some((number, power)) => (number, power.parse::<i32>().map_err(|_| AmountError::NotANumber)?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !is_number(whole) || !is_number(fraction) {
            return Err(AmountError::NotANumber);
        }
        let all = whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0');
        let leading_zeros = all.clone().take_while(|digit| *digit == 0).count();
        Ok(Self {
            is_negative,
            digits: all.skip(leading_zeros).collect(),
            point: whole.len() as i64 - leading_zeros as i64 + i64::from(power),
        })
    }

    /// The value times `10^scale`, rounded half to even, and whether anything but noise was lost by that.
    fn times_ten_to(&self, scale: i64) -> Result<(i128, bool), AmountError> {
        const MAX_WHOLE_DIGITS: i64 = 20;
        let whole_digits = self.point + scale;
        if self.digits.is_empty() {
            return Ok((0, false));
        }
        if whole_digits > MAX_WHOLE_DIGITS {
            return Err(AmountError::Range);
        }
        // The digit at a position relative to the decimal point; positions without a written digit are zero.
        let digit = |place: i64| match usize::try_from(place) {
            Ok(place) => self.digits.get(place).copied().unwrap_or(0),
            Err(_) => 0,
        };
        let whole = (0..whole_digits.max(0)).fold(0i128, |sum, place| sum * 10 + i128::from(digit(place)));
        let behind = whole_digits + i64::from(FRACTION_DIGITS);
        let fraction = (whole_digits..behind).fold(0u64, |sum, place| sum * 10 + u64::from(digit(place)));
        let has_more = (self.digits.len() as i64) > behind;
        let half = ONE / 2;
        let is_up = fraction > half || fraction == half && (has_more || whole % 2 == 1);
        let rounded = whole + i128::from(is_up);
        let distance = if is_up { ONE - fraction } else { fraction };
        let is_noise = i128::from(distance) <= rounded.max(1) * i128::from(NOISE);
        let is_exact = distance == 0 && !has_more;
        let signed = if self.is_negative { -rounded } else { rounded };
        Ok((signed, !is_exact && !is_noise))
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
    /// 9.00 USD in an order in EUR; 9.00 without a code.
    #[error("expected an amount in {code} with the code after it")]
    OtherCurrency {
        /// ISO 4217 code of the order.
        code: &'static str,
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
        // The longest text that is allowed, and one character more.
        let zeros = |count: usize| Money::parse(&format!("1.{}", "0".repeat(count)), jod());
        assert_eq!(zeros(26).unwrap().minor, 1000);
        assert_eq!(
            Money::parse(&format!("{}1", "0".repeat(79)), jod()).map(|money| money.minor),
            Ok(1000)
        );
        assert_eq!(
            Money::parse(&format!("{}1", "0".repeat(80)), jod()),
            Err(AmountError::Range)
        );
    }

    #[test]
    fn refuses_invalid_amounts() {
        for text in [
            "", "abc", "1,5", "0x10", "NaN", "1.2.3", "--1", "٣", "1_0", ".", "-", "1e", "1e1.5", "5 JOD", "false",
        ] {
            assert_eq!(Money::parse(text, jod()), Err(AmountError::NotANumber), "{text}");
        }
        assert!(matches!(
            Money::parse("0.0001", jod()),
            Err(AmountError::TooManyDecimals { .. })
        ));
        for text in ["9223372036854775.808", "1e25", "1e2000000000", &"9".repeat(60)] {
            assert!(Money::parse(text, jod()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_code_after_the_amount_is_that_of_the_order() {
        let read = |text: &str| Money::read_with_code(text, jod()).map(|reading| reading.money.minor);
        for (text, minor) in [("9.00 JOD", 9_000), ("-1.5  jod", -1_500), ("0.125\tJOD", 125)] {
            assert_eq!(read(text), Ok(minor), "{text}");
        }
        for text in ["9.00", "9.00 USD", "JOD", "9.00JOD", "JOD 9.00", ""] {
            assert_eq!(read(text), Err(AmountError::OtherCurrency { code: "JOD" }), "{text}");
        }
        assert_eq!(read("nine JOD"), Err(AmountError::NotANumber));
    }

    #[test]
    fn units_of_another_size() {
        let units = |text: &str, decimals: u32, code: &str| {
            let reading = Money::read_units(text, decimals, code.parse().unwrap())?;
            Ok((reading.money.minor, reading.is_rounded))
        };
        assert_eq!(units("3190000", 5, "EUR"), Ok((3190, false)));
        assert_eq!(units("1465000", 5, "JOD"), Ok((14_650, false)));
        assert_eq!(units("50000000", 5, "JPY"), Ok((500, false)));
        assert_eq!(units("4600", 2, "SAR"), Ok((4600, false)));
        assert_eq!(units("-100000", 5, "EUR"), Ok((-100, false)));
        assert_eq!(units("1", 5, "EUR"), Ok((0, true)));
        assert_eq!(units("3190123", 5, "EUR"), Ok((3190, true)));
        assert_eq!(units("550.0000000000001", 2, "EUR"), Ok((550, false)), "noise");
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

    /// Noise of binary floats is dropped silently; real further decimals are rounded half to even, and reported.
    #[test]
    fn float_noise_is_rounded_silently_and_other_rounding_reported() {
        let read = |text: &str| {
            let reading = Money::read(text, jod()).unwrap();
            (reading.money.minor, reading.is_rounded)
        };
        for (text, minor) in [
            ("12.300000000000001", 12_300),
            ("0.30000000000000004", 300),
            ("4.999999999999999", 5_000),
            ("-0.30000000000000004", -300),
            ("12.29999999999999982236431605997495353221893310546875", 12_300),
            ("5.684341886080802e-14", 0),
            ("-1.4210854715202004e-14", 0),
            ("-0.0", 0),
            ("1e-40", 0),
            ("16.24000001", 16_240),
        ] {
            assert_eq!(read(text), (minor, false), "{text}");
        }
        for (text, minor) in [
            ("0.0005", 0),
            ("0.0015", 2),
            ("0.0025", 2),
            ("0.00250000000000000000001", 3),
            ("4.5555", 4_556),
            ("4.5554", 4_555),
            ("-4.5555", -4_556),
            ("16.2400001", 16_240),
        ] {
            assert_eq!(read(text), (minor, true), "{text}");
        }
    }

    proptest! {
        /// A double written in full is the amount that it stands for.
        #[test]
        fn doubles_are_their_amounts(minor in -1_000_000_000i64..1_000_000_000) {
            let money = Money { minor, currency: jod() };
            let double = minor as f64 / 1000.0;
            let shifted = double + 0.1 - 0.1;
            for text in [format!("{double}"), format!("{double:.40}"), format!("{shifted:e}")] {
                prop_assert_eq!(Money::read(&text, jod()), Ok(ParsedAmount { money, is_rounded: false }), "{}", text);
            }
        }

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
