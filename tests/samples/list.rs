//! Every sample and every shape of `tests/fixtures/providers`.

/// What a sample becomes.
pub(super) enum Becomes {
    /// The backend gets the text of this file, which was reviewed by hand against what is sent.
    Body(&'static str),
    /// It is recorded and answered, and nothing else.
    Ignored,
    /// It is fetched, and it is no order.
    Rejected,
}

/// A sample and what is expected of it.
pub(super) struct Sample {
    pub(super) provider: &'static str,
    pub(super) file: &'static str,
    pub(super) path: &'static str,
    /// The store that it names; after `=`, one that is named in the header because it names none.
    pub(super) store: &'static str,
    pub(super) currency: &'static str,
    pub(super) sent: &'static str,
    /// The document that it only points to: its file, where the provider has it, and its text.
    pub(super) document: Option<(&'static str, &'static str, &'static str)>,
    pub(super) becomes: Becomes,
    /// What the provider is answered; empty for no body at all.
    pub(super) answer: &'static str,
    /// The order's number, and another one in its place: several samples are of one number, and each is to be an order of its own.
    pub(super) number: Option<(&'static str, &'static str)>,
}

impl Sample {
    const fn of(mut self, number: &'static str, other: &'static str) -> Self {
        self.number = Some((number, other));
        self
    }

    /// A text of the sample with the number that the order has here.
    pub(super) fn numbered(&self, text: &str) -> String {
        match self.number {
            Some((number, other)) => text.replace(number, other),
            None => text.to_owned(),
        }
    }
}

macro_rules! fixture {
    ($provider:literal, $file:literal) => {
        include_str!(concat!("../fixtures/providers/", $provider, "/", $file, ".json"))
    };
}

macro_rules! sample {
    ($provider:literal, $file:literal, $path:expr, $store:literal, $currency:literal, $answer:expr) => {
        sample!(
            $provider,
            $file,
            $path,
            $store,
            $currency,
            $answer,
            None,
            Becomes::Body(include_str!(concat!(
                "../fixtures/providers/",
                $provider,
                "/",
                $file,
                ".body.json"
            )))
        )
    };
    ($provider:literal, $file:literal, $path:expr, $store:literal, $currency:literal, $answer:expr, $document:expr, $becomes:expr) => {
        Sample {
            provider: $provider,
            file: $file,
            path: $path,
            store: $store,
            currency: $currency,
            sent: fixture!($provider, $file),
            document: $document,
            becomes: $becomes,
            answer: $answer,
            number: None,
        }
    };
}

/// A webhook that only points to the order, and the document there; the body has the name of the third file.
macro_rules! fetched {
    ($provider:literal, $webhook:literal, $document:literal, $body:literal, $at:literal, $store:literal, $answer:expr) => {
        sample!(
            $provider,
            $webhook,
            "",
            $store,
            "EUR",
            $answer,
            Some(($document, $at, fixture!($provider, $document))),
            Becomes::Body(include_str!(concat!(
                "../fixtures/providers/",
                $provider,
                "/",
                $body,
                ".body.json"
            )))
        )
    };
}

/// The hub's own answer.
pub(super) const OWN: &str = "own";
const KEETA: &str = r#"{"code":0}"#;
const RAPPI: &str = r#"{"status":"OK"}"#;
const DH_1: &str = r#"{"remoteResponse":{"remoteOrderId":"tok-1"}}"#;
/// Where Delivery Hero posts news of an order.
const NEWS: &str = "/remoteId/R-1/remoteOrder/tok-1/posOrderStatus";

#[rustfmt::skip]
pub(super) const SAMPLES: &[Sample] = &[
    sample!("careem", "order", "", "=merchant-1", "JOD", OWN),
    sample!("careem", "order.full.synthetic", "", "=merchant-1", "JOD", OWN),
    sample!("careem-pos", "webhook_ORDER_CREATED.wrapped", "", "main_branch", "JOD", OWN),
    sample!("careem-pos", "get_order.real", "", "main_branch", "JOD", OWN).of("14583136", "14583137"),
    sample!("careem-pos", "order.documented.nested", "", "branch-1", "JOD", OWN),
    sample!("careem-pos", "order.full.synthetic", "", "branch-1", "JOD", OWN).of("62503434", "62503435"),
    sample!("careem-pos", "customer.self_delivery", "", "branch-1", "JOD", OWN),
    sample!("careem-pos", "webhook_status_cancelled.synthetic", "", "=main_branch", "JOD", OWN),
    sample!("careem-pos", "shape.driver_coming", "", "br-1", "JOD", OWN),
    sample!("careem-pos", "public.dubai", "", "br-1", "JOD", OWN),
    sample!("talabat", "order", "", "=talabat-1", "JOD", OWN),
    sample!("talabat", "order.full.synthetic", "", "=talabat-1", "JOD", OWN),
    sample!("delivery-hero", "order_dispatch.talabat", "/order/store-9", "store-9", "OMR",
        r#"{"remoteResponse":{"remoteOrderId":"5f373562-591a-4db9-8609-7eec7880f28d"}}"#),
    sample!("delivery-hero", "order_dispatch.minimal.pedidosya", "", "=store-9", "OMR", r#"{"remoteResponse":{"remoteOrderId":"TEST-1"}}"#),
    sample!("delivery-hero", "order_dispatch.full.synthetic", "", "store-9", "OMR", r#"{"remoteResponse":{"remoteOrderId":"TEST-2"}}"#),
    sample!("delivery-hero", "posOrderStatus.cancelled", "/remoteId/store-9/remoteOrder/TEST-1/posOrderStatus", "store-9", "OMR",
        r#"{"remoteResponse":{"remoteOrderId":"TEST-1"}}"#),
    sample!("delivery-hero", "shape.vendor_delivery", "/order/R-1", "R-1", "OMR", DH_1),
    sample!("delivery-hero", "shape.rider_waiting", NEWS, "R-1", "OMR", DH_1),
    sample!("delivery-hero", "shape.modification", NEWS, "R-1", "OMR", DH_1),
    sample!("delivery-hero", "shape.no_response", NEWS, "R-1", "OMR", DH_1),
    sample!("delivery-hero", "shape.fees_listed", "/order/R-1", "R-1", "OMR", r#"{"remoteResponse":{"remoteOrderId":"tok-2"}}"#).of("tok-1", "tok-2"),
    sample!("delivery-hero", "shape.tax_digits", "/order/R-1", "R-1", "OMR", r#"{"remoteResponse":{"remoteOrderId":"tok-3"}}"#).of("tok-1", "tok-3"),
    sample!("delivery-hero", "public.pickup", "/order/R-1", "R-1", "OMR", r#"{"remoteResponse":{"remoteOrderId":"tok-9"}}"#),
    sample!("deliveroo", "webhook_order.new", "", "test-location-123", "EUR", ""),
    sample!("deliveroo", "webhook_order.full.synthetic", "", "test-location-123", "EUR", ""),
    sample!("deliveroo", "webhook_order.status_update", "", "test-location-123", "EUR", ""),
    sample!("deliveroo", "webhook_rider.status_update", "", "=test-location-123", "EUR", ""),
    sample!("deliveroo", "shape.restaurant_delivery", "", "452692", "EUR", ""),
    sample!("deliveroo", "shape.rider_delivered", "", "452692", "EUR", ""),
    sample!("deliveroo", "public.hong_kong", "", "1000", "EUR", ""),
    sample!("just-eat", "receive_order", "", "AKZ12", "GBP", r#"{"OrderId":"38bbeb45-f520-4438-a44f-0fcdbb29e166"}"#),
    sample!("just-eat", "receive_order.full.synthetic", "", "AKZ12", "GBP", r#"{"OrderId":"38bbeb45-f520-4438-a44f-0fcdbb29e167"}"#),
    sample!("just-eat", "driver_status", "", "=AKZ12", "GBP", r#"{"OrderId":"38bb"}"#),
    sample!("just-eat", "cancel_order", "", "=AKZ12", "GBP", r#"{"OrderId":"38bb"}"#),
    sample!("just-eat", "temp_offline", "", "=AKZ12", "GBP", r#"{"OrderId":"none"}"#, None, Becomes::Ignored),
    sample!("just-eat", "shape.collection", "", "loc-1", "GBP", r#"{"OrderId":"7494e975-0000-4ea5-bdd6-000000000001"}"#),
    sample!("just-eat", "shape.free_item", "", "loc-1", "GBP", r#"{"OrderId":"7494e975-0000-4ea5-bdd6-000000000002"}"#),
    sample!("just-eat", "shape.driver_at_restaurant", "", "loc-1", "GBP", r#"{"OrderId":"7494e975-0000-4ea5-bdd6-000000000002"}"#),
    sample!("just-eat", "public.bag_fee", "", "loc-1", "GBP", r#"{"OrderId":"7494e975-0000-4ea5-bdd6-000000000003"}"#),
    sample!("doordash", "webhook_OrderCreate", "", "abc12345", "USD", OWN),
    sample!("doordash", "order.self_delivery", "", "601135", "USD", OWN),
    sample!("doordash", "order.full.synthetic", "", "601135", "USD", OWN),
    sample!("doordash", "shape.merchant_fleet", "", "loc1", "USD", OWN),
    sample!("doordash", "shape.dasher_arrived", "", "loc1", "USD", OWN),
    sample!("doordash", "shape.adjustment", "", "loc1", "USD", OWN),
    sample!("doordash", "shape.cancellation", "", "loc1", "USD", OWN),
    sample!("doordash", "public.group_order", "", "loc1", "USD", OWN),
    sample!("keeta", "webhook_envelope.synthetic", "", "123", "SAR", KEETA),
    sample!("keeta", "webhook_envelope.full.synthetic", "", "123", "SAR", KEETA),
    sample!("keeta", "shape.order_info", "", "611469", "SAR", KEETA),
    sample!("keeta", "shape.courier", "", "611469", "SAR", KEETA),
    sample!("keeta", "shape.refund", "", "611469", "SAR", KEETA),
    sample!("keeta", "shape.cancelled", "", "611469", "SAR", KEETA),
    sample!("keeta", "public.pickup", "", "611469", "SAR", KEETA),
    sample!("jahez", "webhook_create_order", "", "branch-uuid", "SAR", OWN),
    sample!("jahez", "status_update.outbound", "", "=branch-uuid", "SAR", OWN),
    sample!("jahez", "shape.with_price", "", "b-1", "SAR", OWN),
    sample!("jahez", "shape.timed_out", "", "=b-1", "SAR", OWN),
    sample!("jahez", "public.offer", "", "b-1", "SAR", OWN),
    sample!("generic", "order.created", "", "store-7", "KWD", OWN),
    sample!("generic", "courier.updated", "", "store-7", "KWD", OWN),
    sample!("generic", "order.updated", "", "store-7", "KWD", OWN),
    sample!("generic", "order.cancelled", "", "store-7", "KWD", OWN),
    fetched!("uber-eats", "webhook_orders.notification", "order.v1_delivery.amount_e5", "webhook_orders.notification",
        "/v2/eats/order/o-76", "<store_id>", "").of("<order_id>", "o-76"),
    fetched!("uber-eats", "shape.classic.webhook", "shape.classic.document", "shape.classic", "/v2/eats/order/o-78", "store-9", ""),
    fetched!("uber-eats", "shape.scheduled.webhook", "shape.scheduled.document", "shape.scheduled",
        "/v1/delivery/order/o-77?expand=carts,deliveries,payment", "store-9", ""),
    fetched!("uber-eats", "shape.scheduled.webhook", "shape.scheduled.tax.document", "shape.scheduled.tax",
        "/v1/delivery/order/o-79?expand=carts,deliveries,payment", "store-9", "").of("o-77", "o-79"),
    sample!("uber-eats", "shape.bare.webhook", "", "store-9", "EUR", "",
        Some(("shape.bare.document", "/v1/delivery/order/o-80?expand=carts,deliveries,payment", fixture!("uber-eats", "shape.bare.document"))),
        Becomes::Rejected).of("o-77", "o-80"),
    fetched!("uber-eats", "public.group_order.webhook", "public.group_order.document", "public.group_order",
        "/v1/delivery/order/o-81?expand=carts,deliveries,payment", "store-9", ""),
    sample!("glovo", "dispatched", "/dispatched", "gl-store-1", "EUR", OWN),
    sample!("glovo", "picked_up", "/picked-up", "gl-store-1", "EUR", OWN),
    sample!("glovo", "cancelled", "/cancelled", "gl-store-1", "EUR", OWN),
    sample!("glovo", "dispatched.own_courier", "/dispatched", "gl-store-1", "EUR", OWN),
    fetched!("wolt", "created", "order.second_version", "order.second_version", "/v2/orders/90f5be470000000000000001", "wolt-venue-1", OWN),
    sample!("wolt", "production", "", "wolt-venue-1", "EUR", OWN),
    sample!("wolt", "courier_arrival", "", "wolt-venue-1", "EUR", OWN),
    sample!("wolt", "canceled", "", "wolt-venue-1", "EUR", OWN),
    fetched!("wolt", "created", "order.first_version", "order.first_version", "/v2/orders/90f5be470000000000000002", "wolt-venue-1", OWN)
        .of("0000000001", "0000000002"),
    sample!("hubrise", "order.create", "", "3r4s3-1", "EUR", OWN),
    sample!("hubrise", "order.update", "", "3r4s3-1", "EUR", OWN),
    sample!("hubrise", "order.cancelled", "", "3r4s3-1", "EUR", OWN),
    sample!("hubrise", "customer.update", "", "=3r4s3-1", "EUR", OWN, None, Becomes::Ignored),
    sample!("deliverect", "order", "", "5bf02f380000000000000001", "JOD", OWN),
    sample!("deliverect", "order.cancelled", "", "5bf02f380000000000000001", "JOD", OWN),
    sample!("deliverect", "order.three_digits", "", "5bf02f380000000000000001", "JOD", OWN),
    sample!("rappi", "order.delivery", "", "900105814", "MXN", RAPPI),
    sample!("rappi", "courier", "", "900105814", "MXN", RAPPI),
    sample!("rappi", "delivered", "", "900105814", "MXN", RAPPI),
    sample!("rappi", "cancelled", "", "900105814", "MXN", RAPPI),
    sample!("rappi", "order.marketplace", "", "30000011", "MXN", RAPPI),
    sample!("rappi", "order.until_2022", "", "900142664", "MXN", RAPPI),
    sample!("rappi", "scheduled", "", "900105814", "MXN", RAPPI, None, Becomes::Ignored),
    sample!("rappi", "scheduled.cancelled", "", "900105814", "MXN", RAPPI, None, Becomes::Ignored),
    sample!("rappi", "ping", "", "999", "MXN", RAPPI, None, Becomes::Ignored),
    sample!("rappi", "menu_approved", "", "900109448", "MXN", RAPPI, None, Becomes::Ignored),
];
