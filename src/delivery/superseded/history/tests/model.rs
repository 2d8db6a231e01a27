//! A provider, a backend that does what it is asked, and a hub that asks only the rule.

use std::collections::HashSet;

use proptest::prelude::*;

use super::{super::*, content_of, said};

/// How the backend answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Yes,
    Refuses,
    /// It does what is asked, and every answer is lost.
    Lost,
    Away,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Order(u8, Status),
    Lines(u8),
    /// The same, which also asks for money back.
    Refund(u8),
    News(Status),
}

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// A new webhook.
    New(Kind),
    /// The provider sends one again.
    Again(prop::sample::Index),
    /// A person has one retried that was given up.
    Retry(prop::sample::Index),
}

/// Which request of a body, or of a webhook that announces an order, has a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Order,
    Change,
    StatusToo,
}

/// A body on the log: its webhook, by number, and its end.
#[derive(Debug, Clone, Copy)]
struct Body {
    webhook: u8,
    end: End,
}

/// The number of the webhook that said it last, and what it said.
type Has<T> = Option<(u8, T)>;

/// A backend, and a hub that asks only the rule.
#[derive(Default)]
struct Model {
    webhooks: Vec<Kind>,
    bodies: Vec<Body>,
    /// The keys of the requests that the backend has fulfilled. It does nothing for a repeated one, and says yes.
    keys: HashSet<(Key, usize)>,
    lines: Has<u8>,
    /// The last status that was told, beside that of the announcement that created the order.
    status: Has<Status>,
    /// The webhook that created the order. An announcement after a cancellation creates another order.
    created_by: Option<u8>,
    /// Bodies that were told of an earlier order.
    earlier: HashSet<usize>,
}

impl Model {
    fn said(&self, body: Body) -> Said {
        let (says, status) = match self.webhooks[usize::from(body.webhook)] {
            Kind::Order(total, status) => (Says::Order(Some(Box::new(content_of(total, 12)))), Some(status)),
            Kind::Lines(_) => (Says::Lines, None),
            Kind::Refund(_) => (Says::LinesAndRefund, None),
            Kind::News(status) => (Says::Status, Some(status)),
        };
        said(body.webhook, says, status, body.end)
    }

    fn total(&self, webhook: u8) -> u8 {
        match self.webhooks[usize::from(webhook)] {
            Kind::Order(total, _) | Kind::Lines(total) | Kind::Refund(total) => total,
            Kind::News(_) => unreachable!("news have no lines"),
        }
    }

    fn history(&self, except: Option<usize>) -> Vec<Said> {
        let bodies = self.bodies.iter().enumerate().filter(|(at, _)| Some(*at) != except);
        bodies.map(|(_, body)| self.said(*body)).collect()
    }

    /// One request. Whether the backend does now what it is asked, and the end if there is no more to ask.
    fn ask(&mut self, key: (Key, usize), answer: Answer) -> (bool, Option<End>) {
        let is_new = !self.keys.contains(&key);
        let (is_done, end) = match answer {
            Answer::Yes => (true, None),
            Answer::Refuses if is_new => (false, Some(End::Refused)),
            Answer::Refuses => (true, None),
            Answer::Lost => (true, Some(End::Uncertain)),
            Answer::Away => (false, Some(End::Uncertain)),
        };
        if is_done {
            self.keys.insert(key);
        }
        (is_done && is_new, end)
    }

    /// The request that creates an order, by a key of the order. It is not made after a cancellation that the backend has, for whatever
    /// reason.
    fn create(&mut self, webhook: u8, answer: Answer) -> End {
        let is_told = |body: &&Body| matches!(body.end, End::Told | End::NothingToCancel);
        let mut told = self.bodies.iter().filter(is_told).map(|body| self.said(*body));
        let own = self.said(Body {
            webhook,
            end: End::Uncertain,
        });
        assert!(
            !told.any(|said| said.calls_off_announcement(&own, &[])),
            "{webhook} is cancelled"
        );
        let (is_done, end) = self.ask((Key::Order, usize::from(webhook)), answer);
        if is_done {
            let is_other = self
                .created_by
                .is_none_or(|first| self.is_called_off_between(first, webhook));
            assert!(is_other, "the order was created twice");
            self.lines = Some((webhook, self.total(webhook)));
            (self.status, self.created_by) = (None, Some(webhook));
            let told = self.bodies.iter().enumerate().filter(|(_, body)| body.end.is_told());
            self.earlier = told.map(|(at, _)| at).collect();
        }
        end.unwrap_or(End::Created)
    }

    /// Handles a body, which has no end yet or is retried; its end.
    fn handle(&mut self, body: Body, at: Option<usize>, answers: [Answer; 2]) -> End {
        let (own, history) = (self.said(body), self.history(at));
        let id = at.unwrap_or(self.bodies.len());
        let is_forwarded = |said: &Said| matches!(said.end, End::Created | End::Told | End::Amended);
        if history
            .iter()
            .any(|said| said.word.webhook == own.word.webhook && is_forwarded(said))
        {
            return End::LeftOut;
        }
        if let Some((by, newer)) = newer(&own, &history) {
            assert!(history[by].is_after(&own) || newer == Newer::CalledOff);
            return End::LeftOut;
        }
        let base = history.iter().find(|said| said.end == End::Created).cloned();
        match (self.webhooks[usize::from(body.webhook)], base) {
            (Kind::Order(..), None) => self.first(body, at, answers),
            (Kind::Order(..), Some(base)) => self.later(body, id, &base, &history, answers),
            // The backend does not know the order.
            (Kind::News(status), _) if self.lines.is_none() => {
                let is_announced = |said: &Said| matches!(said.says, Says::Order(_));
                let may_be_sent = |said: &Said| said.end == End::Uncertain && !own.calls_off_announcement(said, &[]);
                let announced = || history.iter().filter(|said| is_announced(said));
                let is_nothing = at.is_some() && status.is_called_off() && announced().next().is_some();
                if is_nothing && !announced().any(may_be_sent) {
                    End::NothingToCancel
                } else {
                    End::Refused
                }
            }
            _ if self.lines.is_none() => End::Refused,
            // Whether or not the hub knows that the backend has the order.
            (kind, _) => {
                let (is_done, end) = self.ask((Key::Change, id), answers[0]);
                match kind {
                    Kind::News(status) if is_done => self.tell(body.webhook, status),
                    Kind::Lines(total) if is_done => {
                        self.is_wanted(body.webhook);
                        self.change(body.webhook, total);
                    }
                    Kind::Refund(total) if is_done => self.change(body.webhook, total),
                    _ => {}
                }
                end.unwrap_or(End::Told)
            }
        }
    }

    /// An announcement of an order that another one created.
    fn later(&mut self, body: Body, id: usize, base: &Said, history: &[Said], answers: [Answer; 2]) -> End {
        let Kind::Order(total, status) = self.webhooks[usize::from(body.webhook)] else {
            unreachable!("it is an announcement")
        };
        let again = again(&self.said(body), base, history, true);
        if again.is_superseded {
            return End::LeftOut;
        }
        if again.difference.is_some() {
            let (is_done, end) = self.ask((Key::Change, id), answers[0]);
            if is_done {
                self.is_wanted(body.webhook);
                self.change(body.webhook, total);
            }
            if end.is_some() || !again.is_news {
                return end.unwrap_or(End::Amended);
            }
        } else if !again.is_news {
            let has = self.lines.map(|(_, total)| total);
            assert_eq!(has, Some(total), "it is not what the backend has");
            return End::Same;
        }
        let key = if again.difference.is_some() {
            Key::StatusToo
        } else {
            Key::Change
        };
        let (is_done, end) = self.ask((key, id), answers[1]);
        if is_done {
            self.tell(body.webhook, status);
        }
        match (end, again.difference) {
            (None, _) => End::Told,
            (Some(End::Uncertain), Some(_)) => End::HalfUncertain,
            (Some(_), Some(_)) => End::HalfTold,
            (Some(end), None) => end,
        }
    }

    /// An announcement of an order that the backend does not have, as far as the hub knows.
    fn first(&mut self, body: Body, at: Option<usize>, answers: [Answer; 2]) -> End {
        let is_other = |other: &usize| Some(*other) != at;
        let is_uncertain = |other: &usize| {
            let other = self.bodies[*other];
            let is_announcement = matches!(self.webhooks[usize::from(other.webhook)], Kind::Order(..));
            let announcement = self.said(other);
            let mut history = self.bodies.iter().map(|body| self.said(*body));
            let is_told = |said: &Said| matches!(said.end, End::Told | End::NothingToCancel | End::LeftOut);
            let mut is_called_off =
                || history.any(|said| is_told(&said) && said.calls_off_announcement(&announcement, &[]));
            other.end == End::Uncertain && is_announcement && !is_called_off()
        };
        let Some(other) = (0..self.bodies.len()).filter(is_other).find(is_uncertain) else {
            return self.create(body.webhook, answers[0]);
        };
        match self.create(self.bodies[other].webhook, answers[0]) {
            End::Uncertain => End::Unposted,
            end => {
                self.bodies[other].end = self.bodies[other].end.then(end);
                // It is looked at anew, with what is known by now.
                self.handle(body, at, [answers[1]; 2])
            }
        }
    }

    fn change(&mut self, webhook: u8, total: u8) {
        self.is_of_this_order(webhook);
        self.lines = Some((webhook, total));
    }

    /// What was said before a cancellation, or calls off itself, does not change the order that was announced after that.
    fn is_of_this_order(&self, webhook: u8) {
        let created_by = self.created_by.expect("the backend has the order");
        assert!(
            !self.is_called_off_between(webhook, created_by),
            "{webhook} changes the order that {created_by} created after a cancellation"
        );
    }

    /// Whether an order that had been announced was called off after a webhook, or by it, and before another one.
    fn is_called_off_between(&self, webhook: u8, later: u8) -> bool {
        let calls_off = |at: &usize| matches!(self.webhooks[*at], Kind::News(status) if status.is_called_off());
        let was_announced = |at: usize| self.webhooks[..at].iter().any(|kind| matches!(kind, Kind::Order(..)));
        (usize::from(webhook)..usize::from(later))
            .filter(calls_off)
            .any(was_announced)
    }

    /// The backend gets no status after a later one that it has or may have, or after the cancellation ended.
    fn tell(&mut self, webhook: u8, status: Status) {
        self.is_of_this_order(webhook);
        // Of an announcement that got no answer it is not known whether its status was told.
        let is_perhaps = |by: u8| {
            let is_uncertain = |body: &Body| body.webhook == by && body.end == End::Uncertain;
            matches!(self.webhooks[usize::from(by)], Kind::Order(..)) && self.bodies.iter().any(is_uncertain)
        };
        let is_news = matches!(self.webhooks[usize::from(webhook)], Kind::News(_));
        let is_in_order = self
            .status
            .is_none_or(|(by, _)| by <= webhook || is_perhaps(by) || !is_news);
        assert!(
            is_in_order,
            "{status:?} of {webhook} reaches the backend after {:?}",
            self.status
        );
        for other in &self.bodies {
            let Kind::News(later) = self.webhooks[usize::from(other.webhook)] else {
                continue;
            };
            let is_known = matches!(other.end, End::Told | End::Uncertain) || later.is_called_off();
            let is_allowed = other.webhook <= webhook || !is_known;
            assert!(
                is_allowed,
                "{status:?} of {webhook} reaches the backend after {later:?} of {}",
                other.webhook
            );
        }
        self.status = Some((webhook, status));
    }

    fn take(&mut self, turn: Turn, answers: [Answer; 2]) {
        let (body, at) = match turn {
            // An amendment that comes before its order is sent after it.
            Turn::New(Kind::Lines(_) | Kind::Refund(_))
                if !self.webhooks.iter().any(|kind| matches!(kind, Kind::Order(..))) =>
            {
                return;
            }
            Turn::New(kind) => {
                self.webhooks.push(kind);
                (u8::try_from(self.webhooks.len() - 1).unwrap(), None)
            }
            Turn::Again(webhook) if !self.webhooks.is_empty() => {
                (u8::try_from(webhook.index(self.webhooks.len())).unwrap(), None)
            }
            Turn::Retry(letter) => {
                let given_up = [
                    End::Refused,
                    End::Uncertain,
                    End::HalfTold,
                    End::HalfUncertain,
                    End::Unposted,
                ];
                let letters = (0..self.bodies.len()).filter(|at| given_up.contains(&self.bodies[*at].end));
                let letters: Vec<usize> = letters.collect();
                if letters.is_empty() {
                    return;
                }
                let at = letters[letter.index(letters.len())];
                (self.bodies[at].webhook, Some(at))
            }
            Turn::Again(_) => return,
        };
        let body = Body {
            webhook: body,
            end: End::LeftOut,
        };
        let was_there = self.lines.is_some();
        let end = self.handle(body, at, answers);
        if !was_there && self.lines.is_some() {
            self.is_wanted(body.webhook);
        }
        match at {
            Some(at) => self.bodies[at].end = self.bodies[at].end.then(end),
            None => self.bodies.push(Body { end, ..body }),
        }
        self.has_the_last_lines();
    }

    /// No order is created or changed by a word after which its provider called it off, once that has ended.
    fn is_wanted(&self, webhook: u8) {
        let is_cancellation = |body: &&Body| {
            let kind = self.webhooks[usize::from(body.webhook)];
            matches!(kind, Kind::News(status) if status.is_called_off()) && body.webhook > webhook
        };
        let cancelled = self.bodies.iter().find(is_cancellation);
        assert!(cancelled.is_none(), "{webhook} was told after {cancelled:?}");
    }

    /// The backend has the lines of the last word that it was told or that was confirmed, or of a later one with an open letter.
    fn has_the_last_lines(&self) {
        let is_about_lines = |body: &&Body| !matches!(self.webhooks[usize::from(body.webhook)], Kind::News(_));
        let of_order = |(at, body)| (!self.earlier.contains(&at)).then_some(body);
        let bodies = || {
            self.bodies
                .iter()
                .enumerate()
                .filter_map(of_order)
                .filter(is_about_lines)
        };
        let Some(last) = bodies()
            .filter(|body| body.end.is_told())
            .max_by_key(|body| body.webhook)
        else {
            return;
        };
        let (by, total) = self.lines.expect("what was told is there");
        let is_perhaps = |body: &Body| body.webhook > last.webhook && body.end == End::Uncertain;
        let is_later = bodies().any(|body| is_perhaps(body) && self.total(body.webhook) == total);
        let expected = self.total(last.webhook);
        assert!(
            is_later || total == expected,
            "the backend has {total} of {by}, and {last:?} said {expected}"
        );
    }
}

fn turns() -> impl Strategy<Value = Vec<(Turn, [Answer; 2])>> {
    let status = || {
        prop::sample::select(vec![
            Status::Received,
            Status::Accepted,
            Status::Ready,
            Status::Delivered,
            Status::Cancelled,
        ])
    };
    let started = prop::sample::select(vec![Status::Received, Status::Accepted]);
    let kind = prop_oneof![
        4 => (1u8..4, started).prop_map(|(total, status)| Kind::Order(total, status)),
        1 => (1u8..4).prop_map(Kind::Lines),
        1 => (1u8..4).prop_map(Kind::Refund),
        2 => status().prop_map(Kind::News),
    ];
    let turn = prop_oneof![
        3 => kind.prop_map(Turn::New),
        1 => any::<prop::sample::Index>().prop_map(Turn::Again),
        2 => any::<prop::sample::Index>().prop_map(Turn::Retry),
    ];
    let answer = || {
        prop_oneof![
            3 => Just(Answer::Yes),
            2 => Just(Answer::Refuses),
            2 => Just(Answer::Lost),
            1 => Just(Answer::Away),
        ]
    };
    prop::collection::vec((turn, [answer(), answer()]), 1..25)
}

proptest! {
    /// Whatever a provider says and repeats, whatever the backend answers, and whatever a person has retried.
    #[test]
    fn the_backend_ends_with_the_last_word(turns in turns()) {
        let mut model = Model::default();
        for (turn, answers) in turns {
            model.take(turn, answers);
        }
    }
}
