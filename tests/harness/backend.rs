//! The restaurant's backend, played: it records every request and answers by a script.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::Response,
};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    played::{Heard, Played, at_least},
    servers::Database,
};

/// Where new orders go.
pub(crate) const ORDERS: &str = "/api/integration/orders";
/// What the backend can say of a request about an order.
impl Heard {
    pub(crate) fn key(&self) -> &str {
        self.header("idempotency-key")
    }

    /// The provider's id of the order that it is about.
    pub(crate) fn external_order_id(&self) -> String {
        self.json()["originalWebhook"]["orderId"].as_str().unwrap().to_owned()
    }
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// It has the order; the same key always gets the same id.
    Accept,
    /// This status, with this body and these headers.
    Say(u16, String, Vec<(&'static str, String)>),
    /// The same, with a body that need not be text.
    Bytes(u16, Vec<u8>, Vec<(&'static str, String)>),
    /// Nothing, for as long as the connection stands.
    Hang,
    /// It has the order, and answers nothing for as long as the connection stands.
    TakeAndHang,
    /// It has the order, but the connection breaks before anything of the answer has come.
    Cut,
    /// It has the order, and says so; the connection breaks in the middle of the body.
    BreakOff,
    /// It has the order already: 409, naming it.
    Conflict,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self::Say(status, json!({ "success": false }).to_string(), Vec::new())
    }

    /// A redirect to this place.
    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        Self::Say(status, String::new(), vec![("location", location.to_owned())])
    }
}

#[derive(Default)]
struct Script {
    requests: Vec<Heard>,
    /// Ids of orders by idempotency key.
    orders: HashMap<String, String>,
    /// Answers for the next requests about one order, before any other.
    for_order: HashMap<String, VecDeque<Answer>>,
    /// Answers for every request about one order that nothing else was said about.
    always: HashMap<String, Answer>,
    /// Answers for the next requests, whatever they are about.
    next: VecDeque<Answer>,
    /// Orders that it does not know before they are announced.
    unknown: HashSet<String>,
    /// Answers by the key and how often it came before.
    rule: Option<Rule>,
    /// How often each key came under the rule.
    times: HashMap<String, usize>,
    /// Answer for every other request.
    otherwise: Option<Answer>,
    takes: Duration,
}

/// The answer to a request by its `Idempotency-Key` and by the number of earlier requests with that key.
type Rule = Box<dyn Fn(&str, usize) -> Answer + Send>;

impl Script {
    fn by_rule(&mut self, key: &str) -> Option<Answer> {
        let rule = self.rule.as_ref()?;
        let times = self.times.entry(key.to_owned()).or_default();
        *times += 1;
        Some(rule(key, *times - 1))
    }
}

struct Shared {
    script: Mutex<Script>,
    held: watch::Sender<bool>,
    /// Where it keeps its orders, as the real one does.
    database: Mutex<Option<Arc<Database>>>,
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }
}

/// The backend.
pub(crate) struct Backend {
    server: Played,
    shared: Arc<Shared>,
}

impl Deref for Backend {
    type Target = Played;

    fn deref(&self) -> &Played {
        &self.server
    }
}

impl Backend {
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared {
            script: Mutex::default(),
            held: watch::Sender::new(false),
            database: Mutex::default(),
        });
        let router = Router::new().fallback(receive).with_state(Arc::clone(&shared));
        Self {
            server: Played::start("the backend", router),
            shared,
        }
    }

    /// Requests are recorded from now on, but not answered before [`Self::release`].
    pub(crate) fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// Every answer takes this long from now on.
    pub(crate) fn takes(&self, time: Duration) {
        self.shared.script().takes = time;
    }

    /// The answers to the next requests, one each.
    pub(crate) fn next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.shared.script().next.extend(answers);
    }

    /// The answers to the next requests about one order, one each.
    pub(crate) fn next_for(&self, order: &str, answers: impl IntoIterator<Item = Answer>) {
        self.shared
            .script()
            .for_order
            .entry(order.to_owned())
            .or_default()
            .extend(answers);
    }

    /// The answer to every request about one order; none: the same as for others.
    pub(crate) fn always_for(&self, order: &str, answer: Option<Answer>) {
        let mut script = self.shared.script();
        match answer {
            Some(answer) => drop(script.always.insert(order.to_owned(), answer)),
            None => drop(script.always.remove(order)),
        }
    }

    /// The default answer.
    pub(crate) fn otherwise(&self, answer: Answer) {
        self.shared.script().otherwise = Some(answer);
    }

    /// News of this order are answered 404 until the order is announced.
    pub(crate) fn knows_not(&self, order: &str) {
        self.shared.script().unknown.insert(order.to_owned());
    }

    /// Every request is answered by this rule of its key and of the number of earlier requests; none removes the rule.
    pub(crate) fn by_rule(&self, rule: Option<Rule>) {
        self.shared.script().rule = rule;
    }

    /// Writes each accepted order into the table `orders` from now on.
    pub(crate) fn keeps_orders_in(&self, database: &Arc<Database>) {
        *self.shared.database.lock().unwrap() = Some(Arc::clone(database));
    }

    /// Every request so far, in their order.
    pub(crate) fn requests(&self) -> Vec<Heard> {
        self.shared.script().requests.clone()
    }

    /// The keys of what it has accepted.
    pub(crate) fn accepted(&self) -> Vec<String> {
        self.shared.script().orders.keys().cloned().collect()
    }

    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.shared.script().requests.len()
    }

    /// Waits until there were so many, and returns them.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Heard> {
        at_least("requests at the backend", count, || self.requests()).await
    }
}

async fn receive(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let Some(received) = Heard::of(request).await else {
        return Response::new(Body::empty());
    };
    let (answer, takes) = shared.record(&received);
    if !takes.is_zero() {
        tokio::time::sleep(takes).await;
    }
    let _ = shared.held.subscribe().wait_for(|held| !held).await;
    match answer {
        Answer::Accept => shared.accept(&received).await,
        Answer::Say(status, body, headers) => say(status, body, headers),
        Answer::Bytes(status, body, headers) => say(status, body, headers),
        Answer::Hang => std::future::pending().await,
        Answer::TakeAndHang => {
            shared.take(&received).await;
            std::future::pending().await
        }
        Answer::Conflict => {
            let order_id = shared.take(&received).await;
            let body = json!({ "success": false, "existingOrderId": order_id }).to_string();
            Response::builder().status(409).body(Body::from(body)).unwrap()
        }
        Answer::BreakOff => {
            shared.accept(&received).await;
            let half = stream::once(async { Ok(Bytes::from_static(b"{\"success\":")) });
            // After the half was sent: an error at once would take it along.
            let end = stream::once(async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(std::io::Error::other("cut"))
            });
            Response::new(Body::from_stream(half.chain(end)))
        }
        Answer::Cut => {
            shared.accept(&received).await;
            let halves = [
                Ok(Bytes::from_static(b"{\"success\":")),
                Err(std::io::Error::other("cut")),
            ];
            Response::new(Body::from_stream(stream::iter(halves)))
        }
    }
}

fn say(status: u16, body: impl Into<Body>, headers: Vec<(&'static str, String)>) -> Response {
    let response = headers
        .into_iter()
        .fold(Response::builder(), |response, (name, value)| {
            response.header(name, value)
        });
    response.status(status).body(body.into()).unwrap()
}

impl Shared {
    fn record(&self, received: &Heard) -> (Answer, Duration) {
        let mut script = self.script();
        script.requests.push(received.clone());
        let order = serde_json::from_slice::<Value>(&received.body).unwrap_or_default();
        let order = order["originalWebhook"]["orderId"].as_str().unwrap_or_default();
        if script.unknown.contains(order) {
            if received.path != ORDERS {
                return (Answer::status(404), script.takes);
            }
            script.unknown.remove(order);
        }
        let for_order = script.for_order.get_mut(order).and_then(VecDeque::pop_front);
        let answer = for_order
            .or_else(|| script.always.get(order).cloned())
            .or_else(|| script.next.pop_front())
            .or_else(|| script.by_rule(received.key()))
            .or_else(|| script.otherwise.clone());
        (answer.unwrap_or(Answer::Accept), script.takes)
    }

    async fn accept(&self, received: &Heard) -> Response {
        let order_id = self.take(received).await;
        let body = match received.path.as_str() {
            ORDERS => json!({ "success": true, "orderId": order_id, "status": "pending" }),
            // A change of an order that exists.
            _ => json!({ "success": true }),
        };
        Response::new(Body::from(body.to_string()))
    }

    /// Notes that it has what was sent; the id that it goes by.
    async fn take(&self, received: &Heard) -> String {
        let (order_id, new) = {
            let mut script = self.script();
            let number = script.orders.len() + 1;
            let known = script.orders.get(received.key()).cloned();
            let order_id = script
                .orders
                .entry(received.key().to_owned())
                .or_insert_with(|| format!("order-{number}"));
            (order_id.clone(), known.is_none())
        };
        let database = self.database.lock().unwrap().clone();
        if let Some(database) = database.filter(|_| new && received.path == ORDERS) {
            let order = &received.json()["transformedOrder"];
            let text = |name: &str| order[name].as_str().unwrap().replace('\'', "''");
            let (number, branch, external) = (text("orderNumber"), text("branchId"), text("externalOrderId"));
            let insert = format!(
                "INSERT INTO orders (id, order_number, branch_id, provider_order_id)
                 VALUES ('{order_id}', '{number}', '{branch}', '{external}')"
            );
            database.run(&insert).await.unwrap();
        }
        order_id
    }
}
