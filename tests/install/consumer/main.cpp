// Quantizes a matrix of its own, and a checkpoint, with the installed library.
//
//   consumer MODEL OUT
//
// Prints what came of it; ends with 1 after an error.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <halfquad/checkpoint.h>
#include <halfquad/quantize.h>
#include <vector>

namespace {

/// A matrix in memory: 4 bits, groups of 64, there and back.
void quantize_matrix() {
  constexpr std::int64_t kRows = 256, kCols = 512;
  std::vector<float> weights(kRows * kCols);
  std::uint32_t state = 1;
  for (float& weight : weights) {
    state = state * 1664525U + 1013904223U;
    weight = static_cast<float>(state >> 8U) / 16777216.0F - 0.5F;
  }

  halfquad::QuantizeSettings settings;
  settings.threads = 2;
  const halfquad::QuantizedShape shape = halfquad::quantized_shape(kRows, kCols, settings);
  std::vector<std::byte> codes(shape.code_bytes), scale(shape.scale_bytes), zero(shape.scale_bytes);
  const halfquad::QuantizeErrors errors =
      halfquad::quantize({weights.data(), halfquad::FloatType::kF32, kRows, kCols}, settings, {codes, scale, zero});

  std::vector<float> again(weights.size());
  halfquad::dequantize({codes, scale, zero}, kRows, kCols, settings, again);
  double off = 0;
  for (std::size_t i = 0; i < weights.size(); ++i)
    off += static_cast<double>(again[i] > weights[i] ? again[i] - weights[i] : weights[i] - again[i]);
  off /= static_cast<double>(weights.size());
  std::printf("matrix: %zu bytes of codes, mean error %s\n", codes.size(),
              off < 0.02 && off < errors.mean_abs * 1.001 && off > errors.mean_abs * 0.999 ? "as told" : "wrong");
}

/// What is wrong with a request comes as an exception that says so.
void show_error() {
  try {
    static_cast<void>(halfquad::quantized_shape(3, 100, {}));
  } catch (const halfquad::Error& error) {
    std::printf("error %s: %s\n", error.code() == halfquad::ErrorCode::kUsage ? "of use" : "of another kind",
                error.what());
  }
}

void quantize_model(const char* model, const char* out) {
  halfquad::CheckpointJob job;
  job.model = model;
  job.out = out;
  job.bits = halfquad::CodeBits::k3;
  job.rules = {"down_proj=bits:8"};
  double done = 0;
  job.progress = [&done](const halfquad::JobProgress& progress) {
    done = static_cast<double>(progress.source_bytes_done) / static_cast<double>(progress.source_bytes);
  };
  const halfquad::JobSummary summary = halfquad::quantize_checkpoint(job);
  std::printf("checkpoint: %zu layers, %.0f %% done\n", summary.layers, 100 * done);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: consumer MODEL OUT\n", stderr);
    return 2;
  }
  try {
    std::printf("halfquad %s\n", halfquad::library_version());
    quantize_matrix();
    show_error();
    quantize_model(argv[1], argv[2]);
  } catch (const halfquad::Error& error) {
    std::fprintf(stderr, "consumer: %s\n", error.what());
    return 1;
  }
  return 0;
}
