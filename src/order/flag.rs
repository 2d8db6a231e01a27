//! Flags: remarks about an order, for the backend and for operators. `docs/backend-body.md` has the same list.

use crate::text::words;

words! {
    /// Something about an order, or about news of one, that is not as it should be or was worked out here.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Flag {
        /// The provider's total is not the sum of its parts. Both stay as they were sent.
        TotalMismatch = "total_mismatch",
        /// The lines do not add up to the provider's subtotal. Both stay as they were sent.
        SubtotalMismatch = "subtotal_mismatch",
        /// The lines are without the tax that the subtotal contains. Both stay as they were sent.
        LinesWithoutTax = "lines_without_tax",
        /// The provider sent no total; this one is the sum of what it sent.
        TotalComputed = "total_computed",
        /// The provider sent no sum of the lines; this one is computed.
        SubtotalComputed = "subtotal_computed",
        /// The provider sent no total of some line; it is computed from its price and quantity.
        LineTotalComputed = "line_total_computed",
        /// The provider sent no price of one of some line; it is worked out of the line's total and quantity.
        UnitPriceComputed = "unit_price_computed",
        /// A price or total that is charged had more decimals than its currency; it is rounded half to even.
        PriceRounded = "price_rounded",
        /// The same of an amount that only informs.
        AmountRounded = "amount_rounded",
        /// An amount that only informs could not be read; it is left out.
        AmountUnreadable = "amount_unreadable",
        /// The order's currency could not be read; the configured one is taken.
        CurrencyAssumed = "currency_assumed",
        /// A line or an addition has no name; its id replaces it.
        NameMissing = "name_missing",
        /// A text is none (a list, an object, `true`, `false`); it is left out.
        TextUnreadable = "text_unreadable",
        /// A number that is no money is none; it is left out.
        NumberUnreadable = "number_unreadable",
        /// A time could not be read, or names no zone where none is configured; it is left out.
        TimeUnreadable = "time_unreadable",
        /// A time says by a zero date (`0000-00-00`, `0001-01-01`, 0) that there is none.
        TimeZero = "time_zero",
        /// A yes or no is neither; it counts as not said.
        AnswerUnreadable = "answer_unreadable",
        /// A list that holds no prices is none, one of choices is something empty of another kind, or an element of a list is
        /// empty; it is left out.
        ListUnreadable = "list_unreadable",
        /// A status that is not known; it is passed on verbatim.
        UnknownStatus = "unknown_status",
        /// A change of the order's status without a status.
        StatusMissing = "status_missing",
        /// It is unknown who delivers the order; the assumption is one with which every order is delivered.
        UnknownFulfillment = "unknown_fulfillment",
        /// The word that says whether prices include the tax is unknown.
        UnknownTaxMode = "unknown_tax_mode",
        /// The courier's status is an unknown word; it is passed on verbatim.
        UnknownCourierState = "unknown_courier_state",
        /// Who pays for a discount, or hands on the tax, is said by a word that is not known.
        UnknownParty = "unknown_party",
        /// What was done to an order is said by a word that is not known; it counts as adjusted.
        UnknownAmendment = "unknown_amendment",
        /// A test order.
        TestOrder = "test_order",
        /// Not all of what has no field is kept beside the order; the log has it.
        ExtraTruncated = "extra_truncated",
    }
}
