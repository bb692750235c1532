//! Reason codes as the packets can carry them: the node may answer any, but each packet has a table of its own.

use magpie_codec::{PacketType, ReasonCode};

/// The reason, if `packet` can carry it; else that something failed, or did not [MQTT-3.2.2-8], [MQTT-3.4.2-1],
/// [MQTT-3.5.2-1], [MQTT-3.9.3-2], [MQTT-3.11.3-2], [MQTT-3.14.2-1].
pub(crate) const fn carried_by(packet: PacketType, reason: ReasonCode) -> ReasonCode {
    if reason.is_valid_in(packet) {
        reason
    } else if reason.is_error() {
        ReasonCode::UnspecifiedError
    } else {
        ReasonCode::Success
    }
}
