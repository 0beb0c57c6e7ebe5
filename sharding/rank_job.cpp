#include "sharding/rank_job.h"

#include <fmt/format.h>

namespace halfquad {

void write_fingerprint(WireWriter& out, const Fingerprint& fingerprint) {
  out.put(static_cast<std::uint64_t>(fingerprint.size()));
  for (const auto& [part, text] : fingerprint) {
    out.put(part);
    out.put(text);
  }
}

Fingerprint read_fingerprint(WireReader& in) {
  Fingerprint fingerprint(in.count(2 * sizeof(std::uint64_t)));
  for (auto& [part, text] : fingerprint) {
    in.get(part);
    in.get(text);
  }
  return fingerprint;
}

void write_records(WireWriter& out, std::span<const ItemRecord> records) {
  out.put(static_cast<std::uint64_t>(records.size()));
  for (const ItemRecord& record : records) record.write(out);
}

std::vector<ItemRecord> read_records(WireReader& in) {
  std::vector<ItemRecord> records(in.count(sizeof(std::uint64_t)));
  for (ItemRecord& record : records) record = ItemRecord::read(in);
  return records;
}

void write_tensors(WireWriter& out, std::span<const std::size_t> tensors) {
  out.put(static_cast<std::uint64_t>(tensors.size()));
  for (const std::size_t tensor : tensors) out.put(static_cast<std::uint64_t>(tensor));
}

std::vector<std::size_t> read_tensors(WireReader& in) {
  std::vector<std::size_t> tensors(in.count(sizeof(std::uint64_t)));
  for (std::size_t& tensor : tensors) tensor = in.get<std::uint64_t>();
  return tensors;
}

void write_devices(WireWriter& out, std::span<const SeenDevice> devices) {
  out.put(static_cast<std::uint64_t>(devices.size()));
  for (const SeenDevice& device : devices) {
    out.put(device.bus_id);
    out.put(device.name);
    out.put(device.near);
  }
}

std::vector<SeenDevice> read_devices(WireReader& in) {
  std::vector<SeenDevice> devices(in.count(2 * sizeof(std::uint64_t)));
  for (SeenDevice& device : devices) {
    in.get(device.bus_id);
    in.get(device.name);
    in.get(device.near);
  }
  return devices;
}

void write_stats(WireWriter& out, const PipelineStats& stats) {
  out.put(stats.peak_buffer_bytes);
  out.put(stats.bytes_received);
  out.put(stats.bytes_by_device_link);
  out.put(stats.tiles_reread);
  out.put(stats.strips_redone);
  out.put(stats.device_weights);
  out.put(stats.read_wait_seconds);
  out.put(stats.solve_seconds);
  out.put(stats.write_seconds);
}

PipelineStats read_stats(WireReader& in) {
  PipelineStats stats;
  in.get(stats.peak_buffer_bytes);
  in.get(stats.bytes_received);
  in.get(stats.bytes_by_device_link);
  in.get(stats.tiles_reread);
  in.get(stats.strips_redone);
  in.get(stats.device_weights);
  in.get(stats.read_wait_seconds);
  in.get(stats.solve_seconds);
  in.get(stats.write_seconds);
  return stats;
}

void write_events(WireWriter& out, std::span<const Trace::Event> events) {
  out.put(static_cast<std::uint64_t>(events.size()));
  for (const Trace::Event& event : events) {
    out.put(event.rank);
    out.put(event.lane);
    out.put(event.name);
    out.put(event.start_us);
    out.put(event.duration_us);
  }
}

std::vector<Trace::Event> read_events(WireReader& in) {
  std::vector<Trace::Event> events(in.count(sizeof(std::uint64_t)));
  for (Trace::Event& event : events) {
    in.get(event.rank);
    in.get(event.lane);
    in.get(event.name);
    in.get(event.start_us);
    in.get(event.duration_us);
  }
  return events;
}

std::string seconds_text(std::chrono::milliseconds time) {
  return fmt::format("{:.3g} s", std::chrono::duration<double>(time).count());
}

void write_outcome(WireWriter& out, const RankOutcome& outcome) {
  out.put(outcome.error.has_value());
  if (outcome.error) {
    out.put(outcome.error->code());
    out.put(std::string_view(outcome.error->what()));
  }
  write_stats(out, outcome.stats);
}

RankOutcome read_outcome(WireReader& in) {
  RankOutcome outcome;
  if (in.get<bool>()) {
    const auto code = in.get<ErrorCode>();
    std::string what;
    in.get(what);
    outcome.error.emplace(code, what);
  }
  outcome.stats = read_stats(in);
  return outcome;
}

}  // namespace halfquad
