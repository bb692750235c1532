//! Topic Names and Topic Filters (sections 4.7 and 4.8).

use proptest::prelude::*;

use crate::{Text, TextError, TopicError, TopicFilter, TopicName, arbitrary};

/// [MQTT-1.5.4-2], [MQTT-4.7.3-2], [MQTT-4.7.3-3], [MQTT-1.4.0-1 v3.1.1], [MQTT-1.4.0-2 v3.1.1],
/// [MQTT-1.4.0-3 v3.1.1], [MQTT-4.7.3-2 v3.1.1], [MQTT-4.7.3-3 v3.1.1]: topics and filters are texts.
#[test]
fn texts_are_checked() {
    assert_eq!(Text::try_from("a\0b"), Err(TextError::Null));
    assert_eq!(Text::try_from("ä\0"), Err(TextError::Null));
    assert_eq!(
        Text::try_from(bytes::Bytes::from_static(b"\xff")),
        Err(TextError::NotUtf8)
    );
    // [MQTT-1.5.4-1]: U+D800.
    assert_eq!(
        Text::try_from(bytes::Bytes::from_static(b"\xed\xa0\x80")),
        Err(TextError::NotUtf8)
    );
    assert!(Text::try_from("x".repeat(65_535)).is_ok());
    assert_eq!(Text::try_from("x".repeat(65_536)), Err(TextError::TooLong));
    // [MQTT-1.5.4-3]: a byte order mark is a character as any other.
    assert_eq!(Text::try_from("\u{feff}a").unwrap().as_str(), "\u{feff}a");
    // Control characters and noncharacters should not be there, but may (section 1.5.4): they are taken as they are.
    for text in [
        "\u{1}",
        "\u{7f}\u{9f}",
        "\u{fffe}",
        "\u{ffff}",
        "\u{fdd0}",
        "\u{10ffff}",
    ] {
        assert_eq!(Text::try_from(text).unwrap().as_str(), text);
    }
}

/// [MQTT-3.3.2-2], [MQTT-4.7.3-1]
/// [MQTT-4.7.0-1], [MQTT-3.3.2-2 v3.1.1], [MQTT-4.7.1-1 v3.1.1], [MQTT-4.7.3-1 v3.1.1]
#[test]
fn topic_names_have_no_wildcard() {
    for topic in ["a", "/", "a/", "a//b", "$SYS/x", " ", "ä/漢"] {
        assert_eq!(TopicName::try_from(topic).unwrap().as_str(), topic);
    }
    assert_eq!(TopicName::try_from(""), Err(TopicError::Empty));
    for topic in ["+", "a/#", "a+b", "#"] {
        assert_eq!(TopicName::try_from(topic), Err(TopicError::WildcardInName));
    }
}

/// [MQTT-4.7.1-1], [MQTT-4.7.1-2]
/// [MQTT-4.7.3-1], [MQTT-4.7.1-2 v3.1.1], [MQTT-4.7.1-3 v3.1.1]
#[test]
fn wildcards_stand_alone() {
    for filter in [
        "#",
        "+",
        "/+",
        "+/",
        "a/+/b/#",
        "+/+",
        "$SYS/#",
        "/#",
        "$share",
        "$shared/x",
    ] {
        assert!(
            !TopicFilter::try_from(filter).unwrap().is_shared(),
            "{filter}"
        );
    }
    for filter in ["a#", "#/a", "a/#/b", "##", "/a/b#"] {
        assert_eq!(
            TopicFilter::try_from(filter),
            Err(TopicError::HashMisplaced),
            "{filter}"
        );
    }
    for filter in ["a+", "+a", "a/+b", "a/b+/c", "++"] {
        assert_eq!(
            TopicFilter::try_from(filter),
            Err(TopicError::PlusMisplaced),
            "{filter}"
        );
    }
    assert_eq!(TopicFilter::try_from(""), Err(TopicError::Empty));
}

/// [MQTT-4.8.2-1], [MQTT-4.8.2-2]
#[test]
fn shared_subscriptions_have_a_name_and_a_filter() {
    let filter = TopicFilter::try_from("$share/group/a/+").unwrap();
    assert_eq!(
        (filter.share_name(), filter.filter(), filter.is_exact()),
        (Some("group"), "a/+", false)
    );
    assert_eq!(filter.unshared(), TopicFilter::try_from("a/+").unwrap());
    let odd = TopicFilter::try_from("$share/g/$share/h/#")
        .unwrap()
        .unshared();
    assert!(!odd.is_shared());
    assert_eq!(odd.filter(), "$share/h/#");
    assert!(odd.matches(&TopicName::from_static("$share/h/x")));
    assert!(!odd.matches(&TopicName::from_static("x")));
    let filter = TopicFilter::try_from("$share/g//").unwrap();
    assert_eq!(
        (filter.share_name(), filter.filter(), filter.is_exact()),
        (Some("g"), "/", true)
    );
    let filter = TopicFilter::try_from("a/b").unwrap();
    assert_eq!(
        (filter.share_name(), filter.filter(), filter.is_exact()),
        (None, "a/b", true)
    );

    assert_eq!(
        TopicFilter::try_from("$share//a"),
        Err(TopicError::ShareName)
    );
    assert_eq!(
        TopicFilter::try_from("$share/g+/a"),
        Err(TopicError::ShareName)
    );
    assert_eq!(
        TopicFilter::try_from("$share/#/a"),
        Err(TopicError::ShareName)
    );
    assert_eq!(
        TopicFilter::try_from("$share/g/"),
        Err(TopicError::ShareFilter)
    );
    assert_eq!(
        TopicFilter::try_from("$share/g"),
        Err(TopicError::ShareFilter)
    );
    assert_eq!(
        TopicFilter::try_from("$share/g/a#"),
        Err(TopicError::HashMisplaced)
    );
}

/// [MQTT-3.3.2-3], [MQTT-3.3.2-3 v3.1.1], [MQTT-4.7.2-1 v3.1.1], [MQTT-4.7.3-4 v3.1.1]
#[test]
fn filters_match_as_the_examples_of_the_specification() {
    let check = |filter: &str, topic: &str, expected: bool| {
        let (filter, topic) = (
            TopicFilter::try_from(filter).unwrap(),
            TopicName::try_from(topic).unwrap(),
        );
        assert_eq!(filter.matches(&topic), expected, "{filter} {topic}");
    };
    for topic in [
        "sport/tennis/player1",
        "sport/tennis/player1/ranking",
        "sport/tennis/player1/score/wimbledon",
    ] {
        check("sport/tennis/player1/#", topic, true);
    }
    check("sport/#", "sport", true);
    check("#", "sport", true);
    check("#", "/", true);
    check("sport/tennis/+", "sport/tennis/player1", true);
    check("sport/tennis/+", "sport/tennis/player1/ranking", false);
    check("sport/+", "sport", false);
    check("sport/+", "sport/", true);
    check("+/+", "/finance", true);
    check("/+", "/finance", true);
    check("+", "/finance", false);
    check("$share/g/sport/#", "sport/tennis", true);
    check("a", "a/b", false);
    check("a/b", "a", false);
    // [MQTT-4.7.2-1]
    check("#", "$SYS/x", false);
    check("+/monitor/Clients", "$SYS/monitor/Clients", false);
    check("$SYS/#", "$SYS/x", true);
    check("$SYS/monitor/+", "$SYS/monitor/Clients", true);
    check("$share/g/#", "$SYS/x", false);
    // [MQTT-4.7.3-4]: no normalisation.
    check("ACCOUNTS", "Accounts", false);
}

proptest! {
    #[test]
    fn a_topic_matches_itself_and_what_covers_it(topic in arbitrary::topic_name()) {
        prop_assert!(TopicFilter::try_from(topic.as_str()).unwrap().matches(&topic));
        prop_assert_eq!(TopicFilter::from_static("#").matches(&topic), !topic.is_dollar());
        let below = format!("{topic}/#");
        prop_assert!(TopicFilter::try_from(below).unwrap().matches(&topic));
        prop_assert_eq!(topic.compact(), topic);
    }
}
