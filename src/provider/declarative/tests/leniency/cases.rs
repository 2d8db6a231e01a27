//! The samples and shapes of orders, and the fields without which an order is rejected.

/// A sample, and where in it stands what an order is made of and priced by, with `*` for one step and `**` for any number.
pub(super) struct Case {
    pub(super) provider: &'static str,
    /// What is changed at random: the body, or the document that is fetched, or the JSON in its text `/message`.
    pub(super) json: &'static str,
    pub(super) currency: &'static str,
    pub(super) essential: &'static [&'static str],
    /// By what is seen what the webhook is: with another value it is about something else.
    pub(super) kind: &'static [&'static str],
}

macro_rules! case {
    ($provider:literal, $file:literal, $currency:literal, $essential:expr, $kind:expr) => {
        Case {
            provider: $provider,
            json: include_str!(concat!(
                "../../../../../tests/fixtures/providers/",
                $provider,
                "/",
                $file,
                ".json"
            )),
            currency: $currency,
            essential: $essential,
            kind: $kind,
        }
    };
}

const CAREEM: &[&str] = &[
    "/id",
    "/items/*/quantity",
    "/items/*/item_price",
    "/items/*/total_price",
    "/items/*/groups/*/options/*/price",
    "/items/*/groups/*/options/*/quantity",
    "/price/total_taxable_price",
];
const CAREEM_POS: &[&str] = &[
    "/id",
    "/details/id",
    "**/items/**/quantity",
    "**/items/**/unit_price",
    "**/items/*/total_price",
    "**/price/total_taxable_price",
];
const DELIVERY_HERO: &[&str] = &[
    "/token",
    "/products/*/quantity",
    "/products/*/unitPrice",
    "/products/*/paidPrice",
    "/products/*/selectedToppings/**/price",
    "/products/*/selectedToppings/**/quantity",
    "/price/grandTotal",
];
const DELIVERY_HERO_INNER: &[&str] = &[
    "/updatedOrder/token",
    "/updatedOrder/products/*/quantity",
    "/updatedOrder/products/*/unitPrice",
    "/updatedOrder/products/*/paidPrice",
    "/updatedOrder/price/grandTotal",
];
const DELIVEROO: &[&str] = &[
    "/body/order/id",
    "/body/order/items/**/quantity",
    "/body/order/items/**/unit_price/fractional",
    "/body/order/items/*/total_price/fractional",
    "/body/order/total_price/fractional",
];
const JUST_EAT: &[&str] = &["/id", "/items/**/quantity", "/items/**/price", "/payment/final/inc_tax"];
/// It sends no total: what makes it up is charged.
const DOORDASH: &[&str] = &[
    "/order/id",
    "/id",
    "**/categories/*/items/**/quantity",
    "**/categories/*/items/**/price",
    "**/subtotal",
    "**/delivery_fee",
    "**/taxes_on_fees",
    "**/extra_cart_order_fee",
    "**/tax",
    "**/tip_amount",
    "**/merchant_tip_amount",
];
const DOORDASH_WITH_TOTAL: &[&str] = &[
    "/order/id",
    "/id",
    "**/categories/*/items/**/quantity",
    "**/categories/*/items/**/price",
    "**/total",
];
const KEETA: &[&str] = &[
    "/baseOrder/orderViewId",
    "/merchantOrder/orderViewId",
    "/products/**/count",
    "/products/**/price",
    "/feeDtl/customerFee/payTotal",
];
const KEETA_INNER: &[&str] = &[
    "/orderInfo/baseOrder/orderViewId",
    "/orderInfo/products/**/count",
    "/orderInfo/feeDtl/customerFee/payTotal",
];
const JAHEZ: &[&str] = &[
    "/jahez_id",
    "/products/**/quantity",
    "/products/*/original_price",
    "/products/*/final_price",
    "/products/*/modifiers/*/options/*/final_price",
    "/final_price",
];
const GENERIC: &[&str] = &[
    "/data/id",
    "/data/lines/**/quantity",
    "/data/lines/*/unit_price",
    "/data/lines/*/total",
    "/data/lines/*/modifiers/**/price",
    "/data/total",
];
const UBER: &[&str] = &[
    "/order/carts/*/items/**/cart_item_id",
    "/order/carts/*/items/**/quantity/amount",
    "/order/payment/payment_detail/item_charges/price_breakdown/*/cart_item_id",
    "/order/payment/payment_detail/item_charges/price_breakdown/*/unit/gross/amount_e5",
    "/order/payment/payment_detail/order_total/gross/amount_e5",
];
const UBER_CLASSIC: &[&str] = &[
    "/cart/items/**/quantity",
    "/cart/items/*/price/**/amount",
    "/payment/charges/total/amount",
];
/// It sends no total: what makes it up is charged.
const WOLT: &[&str] = &[
    "/items/**/count",
    "/items/*/item_price/total/amount",
    "/items/*/options/*/price/amount",
    "/basket_price/total/amount",
    "/fees/total/amount",
    "/delivery/fee/amount",
];
const WOLT_FIRST: &[&str] = &[
    "/items/**/count",
    "/items/*/base_price/amount",
    "/items/*/total_price/amount",
    "/items/*/options/*/price/amount",
    "/price/amount",
    "/delivery/fee/amount",
    "/delivery/small_order_surcharge/amount",
];
const GLOVO: &[&str] = &[
    "/order_id",
    "/products/**/quantity",
    "/products/*/price",
    "/products/*/attributes/*/price",
    "/products/*/sub_products/*/price",
    "/total_customer_to_pay",
];
const HUBRISE: &[&str] = &[
    "/new_state/items/**/quantity",
    "/new_state/items/*/price",
    "/new_state/items/*/subtotal",
    "/new_state/items/*/options/*/price",
    "/new_state/total",
];
const DELIVERECT: &[&str] = &[
    "/_id",
    "/decimalDigits",
    "/items/**/quantity",
    "/items/**/price",
    "/payment/amount",
];
const RAPPI: &[&str] = &[
    "/order_detail/order_id",
    "/order_detail/items/**/quantity",
    "/order_detail/items/**/price",
    "/order_detail/totals/total_order",
];
const RAPPI_KIND: &[&str] = &["/order_detail", "/order_detail/order_id"];
const DELIVEROO_KIND: &[&str] = &["/event", "/body", "/body/order", "/body/order/status"];
const JUST_EAT_KIND: &[&str] = &["/items", "/reason", "/restaurantId", "/driverStatus"];
const DOORDASH_KIND: &[&str] = &["/event", "/event/type", "/order", "/order/categories", "/categories"];

pub(super) const CASES: &[Case] = &[
    case!("careem", "order", "JOD", CAREEM, &["/status"]),
    case!("careem", "order.full.synthetic", "JOD", CAREEM, &["/status"]),
    case!("talabat", "order.full.synthetic", "JOD", CAREEM, &["/status"]),
    case!(
        "careem-pos",
        "webhook_ORDER_CREATED.wrapped",
        "JOD",
        CAREEM_POS,
        &["/event_type", "/details", "/details/status"]
    ),
    case!("careem-pos", "get_order.real", "JOD", CAREEM_POS, &["/status"]),
    case!(
        "careem-pos",
        "order.full.synthetic",
        "JOD",
        CAREEM_POS,
        &["/status", "/event_type", "/details", "/details/status"]
    ),
    case!(
        "delivery-hero",
        "order_dispatch.talabat",
        "EGP",
        DELIVERY_HERO,
        &["/status", "/products"]
    ),
    case!(
        "delivery-hero",
        "order_dispatch.full.synthetic",
        "EGP",
        DELIVERY_HERO,
        &["/status", "/products"]
    ),
    case!("deliveroo", "webhook_order.new", "EUR", DELIVEROO, DELIVEROO_KIND),
    case!(
        "deliveroo",
        "webhook_order.full.synthetic",
        "EUR",
        DELIVEROO,
        DELIVEROO_KIND
    ),
    case!("just-eat", "receive_order", "GBP", JUST_EAT, JUST_EAT_KIND),
    case!(
        "just-eat",
        "receive_order.full.synthetic",
        "GBP",
        JUST_EAT,
        JUST_EAT_KIND
    ),
    case!("doordash", "webhook_OrderCreate", "USD", DOORDASH, DOORDASH_KIND),
    case!(
        "doordash",
        "order.full.synthetic",
        "USD",
        DOORDASH_WITH_TOTAL,
        DOORDASH_KIND
    ),
    case!("keeta", "webhook_envelope.synthetic", "SAR", KEETA, &[]),
    case!("keeta", "webhook_envelope.full.synthetic", "SAR", KEETA, &[]),
    case!("jahez", "webhook_create_order", "SAR", JAHEZ, &["/products", "/status"]),
    case!("generic", "order.created", "KWD", GENERIC, &["/type", "/data"]),
    case!(
        "glovo",
        "dispatched.own_courier",
        "MAD",
        GLOVO,
        &["/products", "/cancel_reason"]
    ),
    case!(
        "hubrise",
        "order.create",
        "EUR",
        HUBRISE,
        &[
            "/new_state",
            "/new_state/id",
            "/order_id",
            "/new_state/status",
            "/event_type",
            "/resource_type"
        ]
    ),
    case!("deliverect", "order", "JOD", DELIVERECT, &["/status"]),
    case!("rappi", "order.marketplace", "MXN", RAPPI, RAPPI_KIND),
    case!("uber-eats", "order.v1_delivery.amount_e5", "EUR", UBER, &["/order"]),
    case!("wolt", "order.second_version", "EUR", WOLT, &[]),
    case!("wolt", "order.first_version", "EUR", WOLT_FIRST, &[]),
];

/// Further samples and shapes of orders, which the sums are tried on as well.
pub(super) const SHAPES: &[Case] = &[
    case!("careem-pos", "public.dubai", "AED", CAREEM_POS, &[]),
    case!("delivery-hero", "public.pickup", "OMR", DELIVERY_HERO, &[]),
    case!("delivery-hero", "shape.modification", "OMR", DELIVERY_HERO_INNER, &[]),
    case!("deliveroo", "public.hong_kong", "EUR", DELIVEROO, &[]),
    case!("just-eat", "public.bag_fee", "GBP", JUST_EAT, &[]),
    case!("doordash", "public.group_order", "USD", DOORDASH, &[]),
    case!("keeta", "public.pickup", "SAR", KEETA, &[]),
    case!("jahez", "public.offer", "SAR", JAHEZ, &[]),
    case!("uber-eats", "public.group_order.document", "EUR", UBER, &[]),
    case!("glovo", "dispatched", "EUR", GLOVO, &[]),
    case!("deliverect", "order.three_digits", "JOD", DELIVERECT, &[]),
    case!("rappi", "order.delivery", "MXN", RAPPI, &[]),
    case!("rappi", "order.until_2022", "MXN", RAPPI, &[]),
    case!("delivery-hero", "shape.vendor_delivery", "OMR", DELIVERY_HERO, &[]),
    case!("delivery-hero", "shape.fees_listed", "OMR", DELIVERY_HERO, &[]),
    case!("deliveroo", "shape.restaurant_delivery", "EUR", DELIVEROO, &[]),
    case!("just-eat", "shape.free_item", "GBP", JUST_EAT, &[]),
    case!("just-eat", "shape.collection", "GBP", JUST_EAT, &[]),
    case!("doordash", "shape.merchant_fleet", "USD", DOORDASH, &[]),
    case!("doordash", "shape.adjustment", "USD", DOORDASH, &[]),
    case!("keeta", "shape.order_info", "SAR", KEETA_INNER, &[]),
    case!("jahez", "shape.with_price", "SAR", JAHEZ, &[]),
    case!("uber-eats", "shape.scheduled.document", "EUR", UBER, &[]),
    case!("uber-eats", "shape.classic.document", "EUR", UBER_CLASSIC, &[]),
];
