#pragma once

#include <string>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include "launcher/report_file.h"

namespace halfquad::test {

inline boost::json::object sample_layer(const std::string& module, double error, std::int64_t rows = 64) {
  return {{"module", module},
          {"shape", {rows, 64}},
          {"bits", "4"},
          {"group_size", 64},
          {"axis", 1},
          {"solver", "hqq"},
          {"iters", 20},
          {"round_zero", false},
          {"per_tensor", false},
          {"stored_bytes", rows * 64 / 2 + rows * 4},
          {"steps", 12},
          {"stopped_early", true},
          {"mean_abs_error", error / 10},
          {"relative_error", error},
          {"sqnr_db", 20.5},
          {"max_abs_error", error / 2},
          {"zeroed", 0},
          {"seconds", 0.25}};
}

/// A halfquad_report.json made up by hand; tests change it and add layers.
inline boost::json::object sample_report() {
  return {
      {"format", "halfquad-report"},
      {"version", 1},
      {"halfquad", "0.1.0"},
      {"command", {"halfquad", "quantize", "my model", "out"}},
      {"source",
       {{"path", "my model"},
        {"files", {{{"name", "model.safetensors"}, {"bytes", 20000}, {"header_xxh3", "0123456789abcdef"}}}}}},
      {"settings", {{"format", "hqq"}, {"scale_dtype", "F16"}, {"nonfinite", "error"}}},
      {"totals",
       {{"source_bytes", 20000},
        {"output_bytes", 8000},
        {"quantized_layers", 2},
        {"quantized_weights", 8192},
        {"quantized_bytes", 4608},
        {"kept_bytes", 3000},
        {"bits_per_weight", 4.5},
        {"relative_error", 0.0831},
        {"sqnr_db", 21.6},
        {"mean_abs_error", 0.001},
        {"max_abs_error", 0.02},
        {"seconds", 2.0},
        {"bytes_read", 20000},
        {"bytes_written", 8000},
        {"peak_resident_bytes", 1000000},
        {"memory_bytes", 2000000},
        {"threads", 2},
        {"solver", "simd AVX2"}}},
      {"ranks",
       {{{"host", "node1"},
         {"bytes_read", 20000},
         {"bytes_written", 8000},
         {"weights", 8192},
         {"read_wait_seconds", 0.5},
         {"solve_seconds", 1.0},
         {"write_seconds", 0.25},
         {"devices", boost::json::array{}}}}},
      {"assembly", {{"how", "direct"}, {"writers", 1}, {"files", 1}}},
      {"layers", {sample_layer("model.layers.0.mlp.up_proj", 0.08), sample_layer("model.layers.1.mlp.up_proj", 0.1)}},
      {"kept", {{{"name", "model.norm.weight"}, {"bytes", 3000}, {"reason", "norm"}}}},
      {"tensors",
       {{"model.layers.0.mlp.up_proj.W_q", {{"xxh3", "00000000000000aa"}, {"run_bytes", 1}, {"block_bytes", 1}}}}}};
}

inline ReportFile parsed(const boost::json::object& report, const std::string& output = "out") {
  return parse_report_file(boost::json::serialize(report), output + "/halfquad_report.json", output);
}

}  // namespace halfquad::test
