//! Telephone numbers as E.164 (ITU-T E.164: `+`, the country's code, the national number; 15 digits at most).
//!
//! Providers pass on what customers type: `+44 (0)20 7946 0958` and `+962 0795 551 234` contain the zero that is dialled only
//! within the country. Which countries have such a prefix, and where it belongs to the number (Italy), is metadata that changes
//! several times a year; the library has it. A number that the library does not accept as valid gets no E.164 form, because
//! derived data must be certain. The number as sent is kept beside it in any case.

use rlibphonenumber::{PHONE_NUMBER_UTIL, PhoneNumberFormat};

/// Fewest and most digits that are looked at: a country's code and a national number, with a national prefix between them.
const DIGITS: std::ops::RangeInclusive<usize> = 7..=18;

/// The number as E.164; none if it does not say its country, or is not a valid number of it. `is_international` says that
/// numbers of this provider hold the country's code also without `+` or `00` before it.
pub fn e164(phone: &str, is_international: bool) -> Option<String> {
    let phone = phone.trim();
    let (is_marked, rest) = match (phone.strip_prefix('+'), phone.strip_prefix("00")) {
        (Some(rest), _) | (None, Some(rest)) => (true, rest),
        (None, None) => (false, phone),
    };
    if !is_marked && !is_international {
        return None;
    }
    let is_separator = |c: char| {
        matches!(
            c,
            ' ' | '-' | '(' | ')' | '.' | '/' | '\u{a0}' | '\u{202f}' | '\u{2011}'
        )
    };
    let digits: String = rest.chars().filter(|c| !is_separator(*c)).collect();
    // Letters, extensions and second numbers are not interpreted.
    if !DIGITS.contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = PHONE_NUMBER_UTIL.parse(format!("+{digits}"), None).ok()?;
    let is_valid = PHONE_NUMBER_UTIL.is_valid_number(&number);
    is_valid.then(|| PHONE_NUMBER_UTIL.format(&number, PhoneNumberFormat::E164).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_that_say_their_country() {
        for (phone, number) in [
            ("+962 79-123 4567", "+962791234567"),
            ("00962791234567", "+962791234567"),
            ("+965\u{a0}5000\u{a0}1234", "+96550001234"),
        ] {
            assert_eq!(e164(phone, false).as_deref(), Some(number), "{phone}");
        }
        assert_eq!(e164("971588371761", true).as_deref(), Some("+971588371761"));
    }

    /// The zero that is dialled within a country is no part of the number, but in Italy.
    #[test]
    fn a_national_prefix_is_dropped_by_the_countrys_rule() {
        for (phone, number) in [
            ("+44 (0)20 7946 0958", "+442079460958"),
            ("+44 020 7946 0958", "+442079460958"),
            ("+9620795551234", "+962795551234"),
            ("00962 (0)79 555 1234", "+962795551234"),
            ("+966 0501234567", "+966501234567"),
            ("+971 04 3456789", "+97143456789"),
            ("+20 0100 123 4567", "+201001234567"),
            ("+49 (0) 30 901820", "+4930901820"),
            ("+36 06 30 123 4567", "+36301234567"),
            ("+7 8 912 345-67-89", "+79123456789"),
            ("+39 06 698 1234", "+39066981234"),
        ] {
            assert_eq!(e164(phone, false).as_deref(), Some(number), "{phone}");
        }
        assert_eq!(e164("962 0795551234", true).as_deref(), Some("+962795551234"));
    }

    #[test]
    fn uncertain_numbers_get_no_e164() {
        for phone in [
            "0791234567",
            "55555 113 000",
            "+1",
            "+0123456789",
            "+96279abc4567",
            "+962791234567 ext 12",
            "+962791234567 / +962791234568",
            "+1 231 234 567",
            "+999123456789",
            "+962 00 79 123 4567",
            "++962791234567",
            "+",
            "",
        ] {
            assert_eq!(e164(phone, false), None, "{phone}");
        }
        assert_eq!(e164("962791234567", false), None, "it does not say its country");
        assert_eq!(e164("0791234567", true), None);
    }

    proptest! {
        /// Whatever is sent, what comes of it is a number of digits, and the same again.
        #[test]
        fn is_e164_or_nothing(phone in "[+0]{0,2}[0-9 ()-]{0,24}|\\PC{0,24}", is_international in any::<bool>()) {
            if let Some(number) = e164(&phone, is_international) {
                let digits = number.strip_prefix('+').unwrap();
                prop_assert!(digits.bytes().all(|byte| byte.is_ascii_digit()) && (7..=15).contains(&digits.len()), "{}", number);
                prop_assert_eq!(e164(&number, false), Some(number));
            }
        }
    }
}
