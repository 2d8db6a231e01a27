//! Flags: remarks about an order, for the backend and for operators. `docs/backend-body.md` has the same list.

/// Something about an order, or about news of one, that is not as it should be or was worked out here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flag {
    /// The provider's total is not the sum of its parts. Both stay as they were sent.
    TotalMismatch,
    /// The lines do not add up to the provider's subtotal. Both stay as they were sent.
    SubtotalMismatch,
    /// The provider sent no total; this one is the sum of what it sent.
    TotalComputed,
    /// The provider sent no sum of the lines; this one is computed.
    SubtotalComputed,
    /// The provider sent no total of some line; it is computed from its price and quantity.
    LineTotalComputed,
    /// The provider sent no price of one of some line; it is worked out of the line's total and quantity.
    UnitPriceComputed,
    /// A price or total that is charged had more decimals than its currency; it is rounded half to even.
    PriceRounded,
    /// The same of an amount that only informs.
    AmountRounded,
    /// An amount that only informs could not be read; it is left out.
    AmountUnreadable,
    /// The order's currency could not be read; the configured one is taken.
    CurrencyAssumed,
    /// A line or an addition has no name; its id replaces it.
    NameMissing,
    /// A text is none (a list, an object, `true`, `false`); it is left out.
    TextUnreadable,
    /// A number that is no money is none; it is left out.
    NumberUnreadable,
    /// A time could not be read, or names no zone where none is configured; it is left out.
    TimeUnreadable,
    /// A time says by a zero date (`0000-00-00`, `0001-01-01`, 0) that there is none.
    TimeZero,
    /// A yes or no is neither; it counts as not said.
    AnswerUnreadable,
    /// A list that holds no prices is none, one of choices is something empty of another kind, or an element of a list is
    /// empty; it is left out.
    ListUnreadable,
    /// A status that is not known; it is passed on verbatim.
    UnknownStatus,
    /// A change of the order's status without a status.
    StatusMissing,
    /// It is unknown who delivers the order; the assumption is one with which every order is delivered.
    UnknownFulfillment,
    /// The word that says whether prices include the tax is unknown.
    UnknownTaxMode,
    /// The courier's status is an unknown word; it is passed on verbatim.
    UnknownCourierState,
    /// Who pays for a discount, or hands on the tax, is said by a word that is not known.
    UnknownParty,
    /// What was done to an order is said by a word that is not known; it counts as adjusted.
    UnknownAmendment,
    /// A test order.
    TestOrder,
    /// Not all of what has no field is kept beside the order; the log has it.
    ExtraTruncated,
}

impl Flag {
    /// Every flag.
    pub const ALL: [Self; 26] = [
        Self::TotalMismatch,
        Self::SubtotalMismatch,
        Self::TotalComputed,
        Self::SubtotalComputed,
        Self::LineTotalComputed,
        Self::UnitPriceComputed,
        Self::PriceRounded,
        Self::AmountRounded,
        Self::AmountUnreadable,
        Self::CurrencyAssumed,
        Self::NameMissing,
        Self::TextUnreadable,
        Self::NumberUnreadable,
        Self::TimeUnreadable,
        Self::TimeZero,
        Self::AnswerUnreadable,
        Self::ListUnreadable,
        Self::UnknownStatus,
        Self::StatusMissing,
        Self::UnknownFulfillment,
        Self::UnknownTaxMode,
        Self::UnknownCourierState,
        Self::UnknownParty,
        Self::UnknownAmendment,
        Self::TestOrder,
        Self::ExtraTruncated,
    ];

    /// Its text in the body.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TotalMismatch => "total_mismatch",
            Self::SubtotalMismatch => "subtotal_mismatch",
            Self::TotalComputed => "total_computed",
            Self::SubtotalComputed => "subtotal_computed",
            Self::LineTotalComputed => "line_total_computed",
            Self::UnitPriceComputed => "unit_price_computed",
            Self::PriceRounded => "price_rounded",
            Self::AmountRounded => "amount_rounded",
            Self::AmountUnreadable => "amount_unreadable",
            Self::CurrencyAssumed => "currency_assumed",
            Self::NameMissing => "name_missing",
            Self::TextUnreadable => "text_unreadable",
            Self::NumberUnreadable => "number_unreadable",
            Self::TimeUnreadable => "time_unreadable",
            Self::TimeZero => "time_zero",
            Self::AnswerUnreadable => "answer_unreadable",
            Self::ListUnreadable => "list_unreadable",
            Self::UnknownStatus => "unknown_status",
            Self::StatusMissing => "status_missing",
            Self::UnknownFulfillment => "unknown_fulfillment",
            Self::UnknownTaxMode => "unknown_tax_mode",
            Self::UnknownCourierState => "unknown_courier_state",
            Self::UnknownParty => "unknown_party",
            Self::UnknownAmendment => "unknown_amendment",
            Self::TestOrder => "test_order",
            Self::ExtraTruncated => "extra_truncated",
        }
    }
}
