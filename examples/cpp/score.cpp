// Scores a request with an exported package: easq_score PACKAGES REQUEST.json
//
// PACKAGES is a directory of `easq-rec export`, REQUEST.json what a client sends to POST /score. Prints one score a
// line.

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <exception>
#include <iostream>

#include "constants.h"
#include "json.h"
#include "request.h"

namespace {

// Type and shape as Python writes them: torch.float32[8192, 32].
std::string shape_of(const at::Tensor& constant) {
  static const std::map<at::ScalarType, std::string> names = {
      {at::kFloat, "float32"}, {at::kHalf, "float16"}, {at::kChar, "int8"}, {at::kLong, "int64"}, {at::kBool, "bool"}};
  std::string found = "torch." + names.at(constant.scalar_type()) + "[";
  for (int64_t place = 0; place < constant.dim(); ++place) {
    found += (place ? ", " : "") + std::to_string(constant.size(place));
  }
  return found + "]";
}

void score(const std::string& packages, const std::string& request) {
  const easq::Json current = easq::json_file(packages + "/current.json");
  const std::string folder = packages + "/" + current["version"].text();
  const easq::Json manifest = easq::json_file(folder + "/manifest.json");
  const auto inputs = easq::inputs_of(manifest, easq::json_file(request));

  torch::inductor::AOTIModelPackageLoader loader(folder + "/code/" + manifest["code"].text() + ".pt2");
  const easq::Constants all = easq::constants_of(folder, manifest);
  const easq::Json shapes = easq::json_of(loader.get_metadata().at("easq_rec_shapes"));
  easq::Constants constants;
  for (const auto& name : loader.get_constant_fqns()) {
    // The loader would take a smaller table, and the code read beyond its end.
    if (!all.count(name)) throw std::runtime_error(name + ": is missing in the package");
    if (shape_of(all.at(name)) != shapes[name].text()) {
      throw std::runtime_error(name + ": is " + shape_of(all.at(name)) + ", and the code needs " + shapes[name].text());
    }
    constants[name] = all.at(name);
  }
  // Before the first run, which would end the process without constants. Their memory is used as it is, and must live
  // as long as the loader.
  loader.load_constants(constants, /*use_inactive=*/false, /*check_full_update=*/true, /*user_managed=*/true);

  const at::Tensor scores = loader.run(inputs).at(0);
  for (int64_t place = 0; place < scores.size(0); ++place) std::printf("%.9g\n", scores[place].item<float>());
}

}  // namespace

int main(int count, char** words) {
  if (count != 3) {
    std::cerr << "usage: easq_score PACKAGES REQUEST.json\n";
    return 2;
  }
  try {
    score(words[1], words[2]);
  } catch (const c10::Error& error) {
    std::cerr << "easq_score: " << error.what_without_backtrace() << "\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "easq_score: " << error.what() << "\n";
    return 2;
  }
  return 0;
}
