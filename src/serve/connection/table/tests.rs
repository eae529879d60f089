use super::*;

const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

fn connections(limits: Limits) -> Arc<Connections> {
    Connections::new(&Limits {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(100),
        unread: Duration::from_secs(10),
        ..limits
    })
}

/// Makes it look as if the phase had begun earlier.
fn age(place: &Place, seconds: u64) {
    let by = Duration::from_secs(seconds);
    place.change(|entry, _| {
        entry.since -= by;
        entry.stuck = entry.stuck.map(|since| since - by);
    });
}

/// Which of `places` were told to go.
fn told(all: &Connections, places: &[&Place]) -> Vec<usize> {
    let table = all.lock();
    let is_told = |place: &Place| table.entries[&place.id].why.is_some();
    (0..places.len()).filter(|&at| is_told(places[at])).collect()
}

#[tokio::test]
async fn the_one_that_keeps_the_server_waiting_makes_room() {
    let all = connections(Limits { connections: 4, ..Limits::default() });
    let (half, idle) = (all.admit(ONE).await, all.admit(ONE).await);
    let (works, new) = (all.admit(ONE).await, all.admit(ONE).await);
    idle.enter(Phase::Idle);
    works.enter(Phase::Working);
    age(&half, 3);
    age(&idle, 20);
    age(&works, 1_000);
    // 3 s of 10 are more than 20 s of 100.
    assert!(all.try_admit(ONE).is_none());
    assert!(all.try_admit(ONE).is_none(), "its place is not free yet, and nobody else goes");
    assert_eq!(told(&all, &[&half, &idle, &works, &new]), [0]);
    half.told().await;
    drop(half);
    let next = all.admit(ONE).await;
    assert!(all.try_admit(ONE).is_none());
    assert_eq!(told(&all, &[&idle, &works, &new, &next]), [0]);
    idle.told().await;
    drop(idle);
    assert_eq!(all.counts().closed[Reason::Place as usize], 2);
    let last = all.admit(ONE).await;
    assert!(all.try_admit(ONE).is_none());
    assert_eq!(told(&all, &[&works, &new, &next, &last]), [0; 0], "they have only just come");
    assert_eq!((all.counts().open, all.counts().accepted), (4, 6));
}

#[tokio::test]
async fn an_address_with_many_connections_goes_first() {
    let all = connections(Limits { connections: 5, ..Limits::default() });
    let honest = all.admit(OTHER).await;
    age(&honest, 3);
    let mut flood = Vec::new();
    for _ in 0..4 {
        flood.push(all.admit(ONE).await);
        age(&flood[flood.len() - 1], 1);
    }
    assert!(all.try_admit(ONE).is_none());
    assert_eq!(told(&all, &[&honest]), [0; 0]);
    drop(flood);
    assert_eq!(all.lock().by_peer.len(), 1, "none is forgotten");
    assert_eq!(all.lock().closing, 0);
    let (near, far): (IpAddr, IpAddr) =
        ("2001:db8::1".parse().unwrap(), "2001:db8::f:1".parse().unwrap());
    assert_eq!(peer(near), peer(far));
    assert_ne!(peer(near), peer("2001:db8:1::1".parse().unwrap()));
    assert_eq!(peer("::ffff:10.0.0.1".parse().unwrap()), ONE);
}

#[tokio::test]
async fn memory_is_taken_from_unread_answers_first() {
    let all = connections(Limits { held: 100, connections: 9, ..Limits::default() });
    let [reads, unread, works] = [all.admit(ONE).await, all.admit(ONE).await, all.admit(ONE).await];
    reads.enter(Phase::Answer);
    reads.holding().hold(30).unwrap();
    unread.enter(Phase::Answer);
    unread.holding().hold(40).unwrap();
    unread.holding().hold(20).unwrap();
    works.enter(Phase::Working);
    unread.stuck();
    age(&unread, 5);
    let held = works.holding();
    held.hold(60).unwrap();
    assert_eq!(told(&all, &[&reads, &unread, &works]), [1]);
    held.hold(20).unwrap_err();
    assert_eq!(
        told(&all, &[&reads, &unread, &works]),
        [1],
        "the other has only just been answered"
    );
    reads.stuck();
    age(&reads, 1);
    // What it asks for is too much even if everybody else goes.
    held.hold(100).unwrap_err();
    assert_eq!(told(&all, &[&reads, &unread, &works]), [0, 1]);
    drop(works);
    assert_eq!(all.counts().held, 60, "the search goes on");
    drop(held);
    assert_eq!(all.counts().held, 0);
}

#[tokio::test]
async fn phases_follow_what_moves() {
    let all = connections(Limits::default());
    let place = all.admit(ONE).await;
    let why = || place.deadline().map(|(_, why)| why);
    assert_eq!(why(), Some(Reason::Head));
    place.received(70);
    assert_eq!(all.counts().held, 70);
    place.enter(Phase::Body);
    assert!(place.awaits_body() && why().is_none());
    place.has_body();
    assert_eq!((place.awaits_body(), why()), (false, None));
    place.enter(Phase::Answer);
    let (before, _) = place.deadline().unwrap();
    place.sent(64 << 10);
    let (after, reason) = place.deadline().unwrap();
    assert_eq!((after - before, reason), (Duration::from_secs(2), Reason::Unread));
    place.flushed();
    assert_eq!((why(), all.counts().held), (Some(Reason::Idle), 0));
    place.received(1);
    assert_eq!(why(), Some(Reason::Head));
}

/// On a busy machine a request may be in the socket, and an answer wait for its turn to be written, for much longer
/// than a client gets to be prompt.
#[tokio::test]
async fn what_the_server_takes_is_not_held_against_a_client() {
    let all = connections(Limits { connections: 3, ..Limits::default() });
    let [answered, asks, idle] = [all.admit(ONE).await, all.admit(ONE).await, all.admit(ONE).await];
    answered.enter(Phase::Answer);
    age(&answered, 5);
    asks.enter(Phase::Idle);
    age(&asks, 50);
    idle.enter(Phase::Idle);
    age(&idle, 20);
    assert!(all.try_admit(ONE).is_none());
    assert_eq!(told(&all, &[&answered, &asks, &idle]), [1], "nothing of the answer was refused");
    // Its next request was there already.
    asks.told().await;
    assert!(!asks.may_stay(), "it is idle still");
    asks.received(70);
    asks.enter(Phase::Working);
    assert!(asks.may_stay() && !asks.may_stay());
    assert!(all.try_admit(ONE).is_none());
    assert_eq!(told(&all, &[&answered, &asks, &idle]), [2], "another goes instead");
    drop(idle);
    assert_eq!(all.counts().closed[Reason::Place as usize], 1, "who may stay does not count");
    answered.stuck();
    age(&answered, 1);
    let _next = all.admit(ONE).await;
    assert!(all.try_admit(ONE).is_none());
    assert_eq!(told(&all, &[&answered, &asks]), [0], "now it is the client who does not read");
    assert!(!answered.may_stay());
    answered.sent(1);
    assert!(!answered.may_stay(), "a little is not what it was waited for");
}
