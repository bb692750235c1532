#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use magpie_cluster::Submitted;
use magpie_codec::{Message, MessageProperties, Text, TopicName};
use magpie_session::{Ticket, Token};
use tokio::sync::oneshot;

use super::*;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn mailbox(messages_max: usize, bytes_max: u64) -> Arc<Mailbox> {
    Arc::new(Mailbox::new(&MailboxConfig {
        messages_max,
        bytes_max: ByteSize::b(bytes_max),
    }))
}

fn delivery(qos: QoS, payload: &'static [u8]) -> Delivery {
    Delivery {
        message: Arc::new(Message {
            topic: TopicName::from_static("t"),
            payload: payload.into(),
            properties: None,
        }),
        qos,
        retain: false,
        subscription_ids: Default::default(),
        token: Token::default(),
        expires_at: None,
    }
}

fn take(mailbox: &Mailbox, waker: &Arc<Woken>, taken: &mut Taken, wants: bool) -> Poll<()> {
    let waker = Waker::from(Arc::clone(waker));
    mailbox.poll_take(&Context::from_waker(&waker), taken, wants)
}

#[test]
fn a_burst_wakes_once_and_at_its_end() {
    let mailbox = mailbox(100, 1000);
    let woken = Arc::new(Woken::default());
    let mut taken = Taken::default();
    assert!(take(&mailbox, &woken, &mut taken, true).is_pending());
    let mut wakes = Wakes::default();
    for _ in 0..10 {
        assert_eq!(
            mailbox.deliver(delivery(QoS::AtMostOnce, b"x"), &mut wakes),
            Pushed::Queued
        );
    }
    assert_eq!(woken.0.load(Ordering::SeqCst), 0);
    wakes.flush();
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(take(&mailbox, &woken, &mut taken, true).is_ready());
    assert_eq!(taken.deliveries.len(), 10);
}

#[test]
fn changed_rules_are_told_once_until_it_is_taken() {
    let mailbox = mailbox(100, 1000);
    let woken = Arc::new(Woken::default());
    let mut taken = Taken::default();
    for _ in 0..2 {
        for _ in 0..3 {
            mailbox.post(Post::RulesChanged).unwrap();
        }
        taken.posts.clear();
        assert!(take(&mailbox, &woken, &mut taken, true).is_ready());
        assert_eq!(taken.posts.len(), 1);
    }
}

#[test]
fn deliveries_do_not_wake_who_cannot_take_them() {
    let mailbox = mailbox(100, 1000);
    let woken = Arc::new(Woken::default());
    let mut taken = Taken::default();
    assert!(take(&mailbox, &woken, &mut taken, false).is_pending());
    let mut wakes = Wakes::default();
    mailbox.deliver(delivery(QoS::AtMostOnce, b"x"), &mut wakes);
    wakes.flush();
    assert_eq!(woken.0.load(Ordering::SeqCst), 0);
    mailbox
        .post(Post::Watched {
            number: 0,
            watched: Vec::new(),
        })
        .unwrap();
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(take(&mailbox, &woken, &mut taken, false).is_ready());
    assert_eq!((taken.posts.len(), taken.deliveries.len()), (1, 0));
}

#[test]
fn a_full_mailbox_drops_qos_0_and_ends_on_qos_1() {
    let mailbox = mailbox(2, 1000);
    let woken = Arc::new(Woken::default());
    let mut wakes = Wakes::default();
    let mut taken = Taken::default();
    let mut push = |qos| mailbox.deliver(delivery(qos, b"x"), &mut wakes);
    assert_eq!(push(QoS::AtMostOnce), Pushed::Queued);
    assert_eq!(push(QoS::AtLeastOnce), Pushed::Queued);
    assert_eq!(push(QoS::AtMostOnce), Pushed::Dropped);
    assert_eq!(push(QoS::AtLeastOnce), Pushed::Overflowed);
    assert_eq!(push(QoS::AtMostOnce), Pushed::Closed);
    assert!(take(&mailbox, &woken, &mut taken, true).is_ready());
    assert_eq!(taken.eviction, Some(Eviction::QuotaExceeded));
}

#[test]
fn what_the_task_holds_counts_until_it_is_done() {
    let mailbox = mailbox(2, 1000);
    let woken = Arc::new(Woken::default());
    let mut wakes = Wakes::default();
    let mut taken = Taken::default();
    for _ in 0..2 {
        mailbox.deliver(delivery(QoS::AtMostOnce, b"x"), &mut wakes);
    }
    assert!(take(&mailbox, &woken, &mut taken, true).is_ready());
    assert_eq!(
        mailbox.deliver(delivery(QoS::AtMostOnce, b"x"), &mut wakes),
        Pushed::Dropped
    );
    taken.next().unwrap();
    assert!(take(&mailbox, &woken, &mut taken, true).is_pending());
    assert_eq!(
        mailbox.deliver(delivery(QoS::AtMostOnce, b"x"), &mut wakes),
        Pushed::Queued
    );
    assert_eq!(
        mailbox.held(),
        Weight {
            messages: 2,
            bytes: 4
        }
    );
}

#[test]
fn bytes_are_bounded_but_one_message_is_taken() {
    let mailbox = mailbox(100, 10);
    let mut wakes = Wakes::default();
    let large = || delivery(QoS::AtMostOnce, &[0; 100]);
    assert_eq!(mailbox.deliver(large(), &mut wakes), Pushed::Queued);
    assert_eq!(mailbox.deliver(large(), &mut wakes), Pushed::Dropped);
}

/// Else a publisher could fill the memory of a node through a subscriber that does not read.
#[test]
fn properties_count_as_the_payload_does() {
    let mailbox = mailbox(100, 1 << 20);
    let mut wakes = Wakes::default();
    let value = Text::try_from("v".repeat(60_000).as_str()).unwrap();
    let mut delivery = delivery(QoS::AtMostOnce, b"");
    let message = Arc::get_mut(&mut delivery.message).unwrap();
    message.properties = Some(Box::new(MessageProperties {
        user_properties: vec![(Text::from_static("name"), value); 10],
        ..MessageProperties::default()
    }));
    let mut push = || mailbox.deliver(delivery.clone(), &mut wakes);
    assert_eq!(push(), Pushed::Queued);
    assert_eq!(push(), Pushed::Dropped);
    assert!(mailbox.held().bytes > 600_000);
}

#[test]
fn a_closed_mailbox_gives_posts_back() {
    let mailbox = mailbox(100, 1000);
    mailbox
        .post(Post::Watched {
            number: 1,
            watched: Vec::new(),
        })
        .unwrap();
    assert_eq!(mailbox.close(&mut Vec::new()).0.len(), 1);
    assert!(
        mailbox
            .post(Post::Watched {
                number: 2,
                watched: Vec::new()
            })
            .is_err()
    );
    let mut wakes = Wakes::default();
    assert_eq!(
        mailbox.deliver(delivery(QoS::AtMostOnce, b"x"), &mut wakes),
        Pushed::Closed
    );
}

#[tokio::test]
async fn gone_is_told_when_closed_and_all_appends_ended() {
    let mailbox = mailbox(100, 1000);
    let own = mailbox.begin_append();
    let submission = mailbox.begin_append();
    let (tell, mut told) = oneshot::channel();
    mailbox.when_gone(Gone::new(tell));
    mailbox.close(&mut Vec::new());
    drop(own);
    assert!(told.try_recv().is_err());
    submission.answer(Submitted::NotProposed);
    told.await.unwrap();
}

/// A submission that was dropped unanswered may have gone anywhere.
#[test]
fn a_dropped_submission_is_of_unknown_outcome() {
    let mailbox = mailbox(100, 1000);
    let mut session = ticket();
    drop(mailbox.begin_append().with_tickets(vec![session.remove(0)]));
    let (posts, _) = mailbox.close(&mut Vec::new());
    assert!(matches!(
        &posts[..],
        [Post::Published {
            submitted: Submitted::Unknown,
            ..
        }]
    ));
}

/// Tickets are made by a session only.
fn ticket() -> Vec<Ticket> {
    use std::time::Instant;

    use magpie_codec::{Connect, Packet, ProtocolVersion, Text};
    use magpie_session::{Connection, Limits, Output};

    let now = Instant::now();
    let mut connection = Connection::new(Arc::new(Limits::default()), 1, now);
    let connect = Connect {
        version: ProtocolVersion::V5,
        client_id: Text::from_static("c"),
        clean_start: true,
        keep_alive_s: 0,
        username: None,
        password: None,
        will: None,
        properties: None,
    };
    connection.handle_packet(Packet::Connect(Box::new(connect)), now);
    std::iter::from_fn(|| connection.poll_output())
        .filter_map(|output| match output {
            Output::Authenticate { ticket, .. } => Some(ticket),
            _ => None,
        })
        .collect()
}

/// A message that passes while the connection is being ended must not count as done.
#[test]
fn who_is_about_to_go_misses_messages_and_knows_it() {
    let mailbox = mailbox(100, 1000);
    let mut lanes = Lanes::new(1000);
    lanes.insert(PartitionId(0), Position(10));
    mailbox.set_lanes(lanes);
    mailbox.evict(Eviction::TakenOver);
    let late = Delivery {
        token: Token {
            partition: 0,
            position: 20,
        },
        ..delivery(QoS::AtLeastOnce, b"x")
    };
    let mut wakes = Wakes::default();
    assert_eq!(mailbox.deliver(late, &mut wakes), Pushed::Deferred);
    let at_most_once = delivery(QoS::AtMostOnce, b"x");
    assert_eq!(mailbox.deliver(at_most_once, &mut wakes), Pushed::Closed);
    let (_, lanes) = mailbox.close(&mut Vec::new());
    let cursors = lanes.unwrap().cursors(|_| Position(30));
    assert_eq!(cursors[0].floor, Position(19));
}
