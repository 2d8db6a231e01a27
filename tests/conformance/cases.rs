//! Where things are in the webhooks of each provider.

/// A provider's webhooks. Pointers are those of the whole body; after `>` they go on in a text that is JSON.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) order: &'static str,
    /// Where the order's id is, and the message's, where it has one.
    pub(super) id: &'static str,
    pub(super) message: Option<&'static str>,
    pub(super) line_name: &'static str,
    /// The total, written so that it means 1.234 or 12.34 of a currency with three decimals or two.
    pub(super) total: (&'static str, &'static str),
    /// Where else the currency stands.
    pub(super) currency: Option<&'static str>,
    /// News about an order, and where its id and its status are; none where no body tells such news.
    pub(super) change: Option<(&'static str, &'static str, &'static str)>,
    pub(super) cancel: (&'static str, &'static str),
    /// Whether the body is signed; else only the caller is known.
    pub(super) is_signed: bool,
    /// What it is answered; `$` stands for the order's id.
    pub(super) answer: Option<&'static str>,
}

macro_rules! fixture {
    ($file:literal) => {
        include_str!(concat!("../fixtures/providers/", $file, ".json"))
    };
}

/// As the platform's own document says it; Talabat's is the same but for its names.
const CAREEM: Case = Case {
    name: "careem",
    order: fixture!("careem/order"),
    id: "/id",
    message: None,
    line_name: "/items/0/name",
    total: ("/price/total_taxable_price", "1.234"),
    currency: None,
    change: Some((r#"{"id":"","status":"ready"}"#, "/id", "/status")),
    cancel: (r#"{"id":"","status":"cancelled"}"#, "/id"),
    is_signed: true,
    answer: None,
};

pub(super) const CASES: &[Case] = &[
    CAREEM,
    Case {
        name: "talabat",
        order: fixture!("talabat/order"),
        ..CAREEM
    },
    Case {
        name: "careem-pos",
        order: fixture!("careem-pos/webhook_ORDER_CREATED.wrapped"),
        id: "/details/id",
        message: None,
        line_name: "/details/items/0/name",
        total: ("/details/price/total_taxable_price", "1.234"),
        currency: None,
        change: Some((
            r#"{"event_type":"ORDER_STATUS_UPDATED","details":{"id":"","status":"ready"}}"#,
            "/details/id",
            "/details/status",
        )),
        cancel: (fixture!("careem-pos/webhook_status_cancelled.synthetic"), "/details/id"),
        is_signed: false,
        answer: None,
    },
    Case {
        name: "delivery-hero",
        order: fixture!("delivery-hero/order_dispatch.talabat"),
        id: "/token",
        message: None,
        line_name: "/products/0/name",
        total: ("/price/grandTotal", "\"1.234\""),
        currency: None,
        change: Some((r#"{"token":"","status":"ORDER_PICKED_UP"}"#, "/token", "/status")),
        cancel: (r#"{"token":"","status":"ORDER_CANCELLED"}"#, "/token"),
        is_signed: false,
        answer: Some(r#"{"remoteResponse":{"remoteOrderId":"$"}}"#),
    },
    Case {
        name: "deliveroo",
        order: fixture!("deliveroo/webhook_order.new"),
        id: "/body/order/id",
        message: None,
        line_name: "/body/order/items/0/name",
        total: ("/body/order/total_price/fractional", "1234"),
        currency: Some("/body/order/total_price/currency_code"),
        change: Some((
            fixture!("deliveroo/webhook_order.status_update"),
            "/body/order/id",
            "/body/order/status",
        )),
        cancel: (
            r#"{"event":"order.status_update","body":{"order":{"id":"","status":"canceled"}}}"#,
            "/body/order/id",
        ),
        is_signed: true,
        answer: Some(""),
    },
    Case {
        name: "just-eat",
        order: fixture!("just-eat/receive_order"),
        id: "/id",
        message: None,
        line_name: "/items/0/name",
        total: ("/payment/final/inc_tax", "1234"),
        currency: None,
        // Another word than those of the order's axis is the courier's.
        change: Some((
            r#"{"orderID":"","driverStatus":{"code":"onItsWay"}}"#,
            "/orderID",
            "/driverStatus/code",
        )),
        cancel: (fixture!("just-eat/cancel_order"), "/orderID"),
        is_signed: true,
        answer: Some(r#"{"OrderId":"$"}"#),
    },
    Case {
        name: "doordash",
        order: fixture!("doordash/webhook_OrderCreate"),
        id: "/order/id",
        message: None,
        line_name: "/order/categories/0/items/0/name",
        total: ("/order/total", "1234"),
        currency: None,
        change: Some((
            r#"{"event":{"type":"DasherStatusUpdate"},"order":{"id":"","dasher_status":"dropoff"}}"#,
            "/order/id",
            "/order/dasher_status",
        )),
        cancel: (r#"{"event":{"type":"OrderCancel"},"order":{"id":""}}"#, "/order/id"),
        is_signed: false,
        answer: None,
    },
    Case {
        name: "keeta",
        order: fixture!("keeta/webhook_envelope.synthetic"),
        id: "/message>/baseOrder/orderViewId",
        message: Some("/messageId"),
        line_name: "/message>/products/0/name",
        total: ("/message>/feeDtl/customerFee/payTotal", "1234"),
        currency: Some("/message>/feeDtl/customerFee/i18n/currency"),
        change: Some((
            r#"{"sig":"","eventId":1002,"messageId":"","message":"{\"merchantOrder\":{\"orderViewId\":\"\",\"status\":10}}"}"#,
            "/message>/merchantOrder/orderViewId",
            "/message>/merchantOrder/status",
        )),
        // Which number it has for that is not known.
        cancel: (
            r#"{"sig":"","eventId":1003,"messageId":"","message":"{\"merchantOrder\":{\"orderViewId\":\"\",\"status\":50}}"}"#,
            "/message>/merchantOrder/orderViewId",
        ),
        is_signed: true,
        answer: Some(r#"{"code":0}"#),
    },
    Case {
        name: "jahez",
        order: fixture!("jahez/webhook_create_order"),
        id: "/jahez_id",
        message: None,
        line_name: "/products/0/name",
        total: ("/final_price", "1.234"),
        currency: None,
        change: Some((r#"{"jahezOrderId":"","status":"D"}"#, "/jahezOrderId", "/status")),
        cancel: (r#"{"jahezOrderId":"","status":"C"}"#, "/jahezOrderId"),
        is_signed: false,
        answer: None,
    },
    Case {
        name: "generic",
        order: fixture!("generic/order.created"),
        id: "/data/id",
        message: None,
        line_name: "/data/lines/0/name",
        total: ("/data/total", "\"1.234\""),
        currency: Some("/data/currency"),
        change: Some((fixture!("generic/order.updated"), "/data/id", "/data/status")),
        cancel: (fixture!("generic/order.cancelled"), "/data/id"),
        is_signed: true,
        answer: None,
    },
    Case {
        name: "glovo",
        order: fixture!("glovo/dispatched"),
        id: "/order_id",
        message: None,
        line_name: "/products/0/name",
        total: ("/total_customer_to_pay", "1234"),
        currency: Some("/currency"),
        // What it is about stands in the URL.
        change: None,
        cancel: (fixture!("glovo/cancelled"), "/order_id"),
        is_signed: false,
        answer: None,
    },
    Case {
        name: "hubrise",
        order: fixture!("hubrise/order.create"),
        id: "/new_state/id",
        message: Some("/id"),
        line_name: "/new_state/items/0/product_name",
        total: ("/new_state/total", "\"1.234 KWD\""),
        currency: None,
        change: Some((fixture!("hubrise/order.update"), "/new_state/id", "/new_state/status")),
        cancel: (fixture!("hubrise/order.cancelled"), "/new_state/id"),
        is_signed: true,
        answer: None,
    },
    Case {
        name: "deliverect",
        order: fixture!("deliverect/order.three_digits"),
        id: "/_id",
        message: None,
        line_name: "/items/0/name",
        total: ("/payment/amount", "1234"),
        currency: None,
        // It tells of cancellations only.
        change: None,
        cancel: (fixture!("deliverect/order.cancelled"), "/_id"),
        is_signed: true,
        answer: None,
    },
    Case {
        name: "rappi",
        order: fixture!("rappi/order.delivery"),
        id: "/order_detail/order_id",
        message: None,
        line_name: "/order_detail/items/0/name",
        total: ("/order_detail/totals/total_order", "1.234"),
        currency: None,
        // Without the time, which has no zone.
        change: Some((
            r#"{"event":"close_order","order_id":"","store_id":"1"}"#,
            "/order_id",
            "/event",
        )),
        cancel: (fixture!("rappi/cancelled"), "/order_id"),
        is_signed: true,
        answer: Some(r#"{"status":"OK"}"#),
    },
];
