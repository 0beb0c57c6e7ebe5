#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

namespace halfquad {

/// A model's config.json as converters to GGUF read it: the settings of a text_config count as the model's own, and a
/// setting of null counts as absent. Getters take several names, of which the first that is there decides, and throw
/// kBadInput naming the setting when it is of the wrong kind.
class GgufConfig {
 public:
  using Names = std::initializer_list<std::string_view>;

  explicit GgufConfig(const boost::json::object& config);

  /// A whole number of at least 0; 4096.0 is one.
  [[nodiscard]] std::optional<std::int64_t> integer(Names names) const;
  /// As above, and it must be there.
  [[nodiscard]] std::int64_t need_integer(Names names) const;
  [[nodiscard]] std::optional<double> number(Names names) const;
  [[nodiscard]] std::optional<bool> flag(std::string_view name) const;
  [[nodiscard]] std::optional<std::string> text(Names names) const;
  /// Null when it is absent.
  [[nodiscard]] const boost::json::value* find(std::string_view name) const;
  /// The object of this name; empty when it is absent.
  [[nodiscard]] boost::json::object object(std::string_view name) const;

  /// First entry of "architectures" at the top level.
  [[nodiscard]] std::string model_class() const;

  // Sizes that several settings and tensors depend on.
  [[nodiscard]] std::int64_t heads() const { return need_integer({"num_attention_heads"}); }
  [[nodiscard]] std::int64_t key_value_heads() const;
  /// head_dim, or the hidden size divided by the heads.
  [[nodiscard]] std::int64_t head_size() const;
  [[nodiscard]] std::int64_t layers() const { return need_integer({"num_hidden_layers"}); }
  /// Routed experts of a layer; 0 for a dense model.
  [[nodiscard]] std::int64_t experts() const;
  /// How many layers from the first on are dense in a model with experts.
  [[nodiscard]] std::int64_t leading_dense_layers() const;

 private:
  boost::json::object merged_;
  std::string model_class_;
};

/// The settings of rotary embeddings, from "rope_parameters" or "rope_scaling" and the settings beside them.
struct GgufRope {
  std::string type;                   ///< "default", "linear", "yarn", "llama3", "longrope", ... or empty.
  std::optional<double> theta;        ///< Of layers with full attention.
  std::optional<double> local_theta;  ///< Of layers with a sliding window.
  boost::json::object settings;       ///< Of layers with full attention.

  explicit GgufRope(const GgufConfig& config);
  [[nodiscard]] std::optional<double> number(std::string_view name) const;
  /// Length of context before it was stretched.
  [[nodiscard]] std::int64_t original_context(const GgufConfig& config) const;
  /// The list of numbers of this name; empty when it is absent.
  [[nodiscard]] std::vector<float> numbers(std::string_view name) const;
};

}  // namespace halfquad
