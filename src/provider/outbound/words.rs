//! Which slots and lists the templates of provider files may use; see [`super::template`].

use super::template::Vocabulary;

/// The token of a login, for paths.
pub const ACCESS_TOKEN: &str = "access_token";
/// The only slot in fields of a request for a token.
pub const BASE_URL_SLOT: &str = "{base_url}";

/// Of calls about an order, and of headers.
pub const STATUS: Vocabulary = Vocabulary {
    slots: &[
        "external_id",
        "status",
        "reason",
        "reason_code",
        "preparation_minutes",
        "accept_time",
        "ready_at",
        "occurred_at",
        "remote_order_id",
        "branch_id",
        "branch_store_id",
        "merchant_id",
        "setting.",
        ACCESS_TOKEN,
    ],
    lists: &[],
    elements: &[],
};

/// Of the lists of a provider's orders.
pub const LIST: Vocabulary = Vocabulary {
    slots: &[
        "since",
        "since_s",
        "since_ms",
        "until",
        "until_s",
        "until_ms",
        "hours",
        "branch_id",
        "branch_store_id",
        "merchant_id",
        "setting.",
        ACCESS_TOKEN,
    ],
    lists: &[],
    elements: &[],
};

/// Of the request for an order of such a list.
pub const LIST_ORDER: Vocabulary = Vocabulary {
    slots: &[
        "external_id",
        "branch_id",
        "branch_store_id",
        "merchant_id",
        "setting.",
        ACCESS_TOKEN,
    ],
    lists: &[],
    elements: &[],
};

/// Of the webhook that is made of an order of such a list.
pub const WEBHOOK_MADE: Vocabulary = Vocabulary {
    slots: &[
        "external_id",
        "document",
        "base_url",
        "branch_id",
        "branch_store_id",
        "merchant_id",
        "setting.",
    ],
    lists: &[],
    elements: &[],
};

/// Of calls about a menu. Each price is there as decimal text, in minor units and as a number.
pub const MENU: Vocabulary = Vocabulary {
    slots: &[
        "branch_id",
        "branch_store_id",
        "merchant_id",
        "request_id",
        "ref",
        "currency",
        "setting.",
        ACCESS_TOKEN,
    ],
    lists: &[
        ("menu.categories", "category"),
        ("menu.items", "item"),
        ("menu.groups", "group"),
        ("category.items", "item"),
        ("item.groups", "group"),
        ("group.options", "option"),
    ],
    elements: &[
        ("category", &["id", "name", "name_ar", "position", "item_ids"]),
        (
            "item",
            &[
                "id",
                "name",
                "name_ar",
                "description",
                "description_ar",
                "price",
                "price_minor",
                "price_number",
                "image_url",
                "available",
                "category_id",
                "group_ids",
                "position",
            ],
        ),
        ("group", &["id", "name", "name_ar", "min", "max", "position"]),
        (
            "option",
            &[
                "id",
                "name",
                "name_ar",
                "price",
                "price_minor",
                "price_number",
                "available",
                "position",
            ],
        ),
    ],
};

/// Of calls about the items of a branch. `id` and `group_id` are of the only entry.
pub const ITEMS: Vocabulary = Vocabulary {
    slots: &[
        "id",
        "group_id",
        "value",
        "available",
        "until",
        "until_unix",
        "branch_id",
        "branch_store_id",
        "merchant_id",
        "setting.",
        ACCESS_TOKEN,
    ],
    lists: &[("entries", "entry")],
    elements: &[(
        "entry",
        &["id", "group_id", "value", "available", "until", "until_unix"],
    )],
};

/// Of calls about the state of a branch.
pub const STORE: Vocabulary = Vocabulary {
    slots: &[
        "state",
        "preparation_minutes",
        "preparation_seconds",
        "until",
        "until_unix",
        "until_minutes",
        "reason",
        "reason_code",
        "branch_id",
        "branch_store_id",
        "merchant_id",
        "setting.",
        ACCESS_TOKEN,
    ],
    lists: &[],
    elements: &[],
};
