#pragma once

#include "runtime/communicator.h"
#include "sharding/wire.h"

namespace halfquad {

/// Messages between rank 0, which leads, and the others, which follow.
enum class Tag : int {
  kHello,      ///< Follower: its fingerprint and host.
  kScanned,    ///< Follower: tensors with NaN or infinity in its part.
  kNonfinite,  ///< Leader: those of all parts.
  kSetup,      ///< Leader: run number, the probe's token.
  kSeen,       ///< Follower: whether it sees the probe.
  kRole,       ///< Leader: AssemblyRole, records to be checked against the files.
  kChecked,    ///< Follower: items whose bytes are damaged.
  kGo,         ///< Leader: tensors that are settled already.
  kWant,       ///< Follower: items, please.
  kRange,      ///< Leader: items, or none any more.
  kPasses,     ///< Follower: FirstPasses.
  kDecision,   ///< Leader: a tensor's decision.
  kRecords,    ///< Follower: durable records.
  kProgress,   ///< Follower: counters; a sign of life too.
  kAlive,      ///< Leader: a sign of life.
  kIdle,       ///< Follower that receives: its own work is over.
  kClose,      ///< Leader: nobody sends any more.
  kTrace,      ///< Follower: its time line, before kEnded.
  kEnded,      ///< Follower: its work is over, with an error or without.
  kStop,       ///< Leader: wind up.
  kBye,        ///< Leader: the job is over; an error's code, or none.
  // Between any two ranks, of which the second writes what the first has solved.
  kOffer,   ///< Sender: a ticket and how many bytes it stands for.
  kGrant,   ///< Receiver: there is room for that ticket.
  kItem,    ///< Sender: the ticket's pieces.
  kStored,  ///< Receiver: they are written.
  kKeep,    ///< Sender: the record of an item whose pieces were written.
  kKept,    ///< Receiver: it will be made durable.
  // Between the same, where results travel over a link between their devices.
  kLinkAsk,     ///< Sender: its device's identity.
  kLinkAnswer,  ///< Receiver: an invitation. Instead, or at any later time:
  kLinkLost,    ///< Receiver: there is no link, for this reason; no reason: it was never possible.
  kLinkEnd,     ///< Sender: it has given the link up.
  kLinkItem,    ///< Sender, instead of kItem: so many bytes of the ticket come over the link.
  kAgain,       ///< Receiver: they did not, so the ticket's pieces have to come as kItem.
};

/// kOffer and what follows it.
[[nodiscard]] inline bool is_between_any_ranks(Tag tag) noexcept { return tag >= Tag::kOffer; }

[[nodiscard]] inline Message message_to(int rank, Tag tag, WireWriter& out) {
  return {rank, static_cast<int>(tag), out.take()};
}
[[nodiscard]] inline Message message_to(int rank, Tag tag) { return {rank, static_cast<int>(tag), {}}; }

}  // namespace halfquad
