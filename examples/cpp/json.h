// The JSON that packages and requests consist of, read into a tree. A service has a library for this already.

#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

namespace easq {

struct Json;
using JsonList = std::vector<Json>;
using JsonObject = std::map<std::string, Json>;

struct Json {
  // null, truth value, integer, other number, text, list, object
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, JsonList, JsonObject> value = nullptr;

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value); }
  bool is_integer() const { return std::holds_alternative<int64_t>(value); }
  const std::string& text() const { return as<std::string>("a text"); }
  const JsonList& list() const& { return as<JsonList>("a list"); }
  const JsonObject& object() const& { return as<JsonObject>("an object"); }
  // References into a tree that ends with the statement.
  const JsonList& list() const&& = delete;
  const JsonObject& object() const&& = delete;
  int64_t integer() const { return as<int64_t>("an integer of 64 bits"); }
  double number() const { return is_integer() ? double(integer()) : as<double>("a number"); }

  const Json& operator[](const std::string& name) const& {
    auto found = object().find(name);
    if (found == object().end()) throw std::runtime_error(name + ": is missing");
    return found->second;
  }

 private:
  template <typename T>
  const T& as(const char* expected) const {
    if (auto found = std::get_if<T>(&value)) return *found;
    throw std::runtime_error(std::string("a value is not ") + expected);
  }
};

class JsonReader {
 public:
  explicit JsonReader(const std::string& text) : at_(text.c_str()), end_(at_ + text.size()) {}

  // The only value of the text. Throws std::runtime_error.
  Json read() {
    Json found = value(0);
    space();
    if (at_ != end_) fail();
    return found;
  }

 private:
  static constexpr int DEEPEST = 32;
  const char* at_;
  const char* end_;

  [[noreturn]] static void fail() { throw std::runtime_error("no JSON"); }

  void space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
  }

  bool skip(char wanted) {
    space();
    if (at_ == end_ || *at_ != wanted) return false;
    ++at_;
    return true;
  }

  bool word(const std::string& wanted) {
    if (std::string(at_, std::min<size_t>(wanted.size(), end_ - at_)) != wanted) return false;
    at_ += wanted.size();
    return true;
  }

  Json value(int depth) {
    space();
    if (depth > DEEPEST || at_ == end_) fail();
    if (*at_ == '"') return {text()};
    if (skip('[')) {
      JsonList found;
      if (skip(']')) return {found};
      do found.push_back(value(depth + 1));
      while (skip(','));
      if (!skip(']')) fail();
      return {std::move(found)};
    }
    if (skip('{')) {
      JsonObject found;
      if (skip('}')) return {found};
      do {
        space();
        std::string name = text();
        if (!skip(':') || !found.emplace(name, value(depth + 1)).second) fail();
      } while (skip(','));
      if (!skip('}')) fail();
      return {std::move(found)};
    }
    if (word("true")) return {true};
    if (word("false")) return {false};
    if (word("null")) return {nullptr};
    return number();
  }

  Json number() {
    const char* begin = at_;
    while (at_ != end_ && std::string("+-.0123456789eE").find(*at_) != std::string::npos) ++at_;
    const std::string digits(begin, at_);
    char* rest = nullptr;
    errno = 0;
    const int64_t whole = std::strtoll(digits.c_str(), &rest, 10);
    if (!digits.empty() && *rest == '\0' && errno == 0) return {whole};
    const double found = std::strtod(digits.c_str(), &rest);
    if (digits.empty() || *rest != '\0') fail();
    return {found};
  }

  std::string text() {
    if (at_ == end_ || *at_++ != '"') fail();
    std::string found;
    while (at_ != end_ && *at_ != '"') {
      if (*at_ == '\\') {
        // Names of columns and constants have no other escapes.
        if (++at_ == end_ || (*at_ != '"' && *at_ != '\\' && *at_ != '/' && *at_ != 'n')) fail();
        found += *at_ == 'n' ? '\n' : *at_;
        ++at_;
      } else {
        found += *at_++;
      }
    }
    if (at_ == end_) fail();
    ++at_;
    return found;
  }
};

inline Json json_of(const std::string& text) { return JsonReader(text).read(); }

inline Json json_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  std::stringstream content;
  content << file.rdbuf();
  try {
    return json_of(content.str());
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

}  // namespace easq
