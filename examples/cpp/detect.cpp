// Run an exported detector on an image: needs onnxruntime only.
//
//     detect MODEL.onnx IMAGE.ppm [THRESHOLD]
//
// Prints a line for each detection: class, score and box. The image is a binary
// PPM in the size that the model's test pipeline makes, here that of the digits;
// `convert image.png image.ppm` of ImageMagick writes one.

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
  int64_t height, width;
  std::vector<float> planes;  // blue, green and red, from 0 to 255
};

Image read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int64_t width = 0, height = 0, highest = 0;
  file >> magic >> width >> height >> highest;
  file.get();
  if (!file || magic != "P6" || highest != 255 || width < 1 || height < 1)
    throw std::runtime_error(path + " is not a PPM image (P6) of 8 bits");
  const int64_t area = width * height;
  std::vector<unsigned char> bytes(3 * area);
  if (!file.read(reinterpret_cast<char*>(bytes.data()), bytes.size()))
    throw std::runtime_error(path + " ends too early");
  Image image{height, width, std::vector<float>(3 * area)};
  for (int64_t i = 0; i < area; ++i)
    for (int64_t channel = 0; channel < 3; ++channel)
      image.planes[(2 - channel) * area + i] = bytes[3 * i + channel];
  return image;
}

// The names in the JSON list of the metadata's key "classes".
std::vector<std::string> read_classes(const std::string& json) {
  std::vector<std::string> names;
  size_t at = json.find("\"classes\": [");
  if (at == std::string::npos) return names;
  const size_t end = json.find(']', at);
  at = json.find('[', at);
  while ((at = json.find('"', at + 1)) < end) {
    const size_t close = json.find('"', at + 1);
    names.push_back(json.substr(at + 1, close - at - 1));
    at = close;
  }
  return names;
}

void detect(const char* model, const char* path, float threshold) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
  Ort::Session session(env, model, Ort::SessionOptions());
  Ort::AllocatorWithDefaultOptions allocator;
  const auto json = session.GetModelMetadata().LookupCustomMetadataMapAllocated(
      "mmbiformer", allocator);
  if (!json)
    throw std::runtime_error(std::string(model) + " is not an exported model");
  const auto classes = read_classes(json.get());

  Image image = read_ppm(path);
  const std::array<int64_t, 4> shape{1, 3, image.height, image.width};
  auto input = Ort::Value::CreateTensor<float>(
      Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault),
      image.planes.data(), image.planes.size(), shape.data(), shape.size());
  const char* inputs[] = {"images"};
  const char* names[] = {"boxes", "scores", "labels"};
  const auto outputs =
      session.Run(Ort::RunOptions(), inputs, &input, 1, names, 3);

  const float* boxes = outputs[0].GetTensorData<float>();
  const float* scores = outputs[1].GetTensorData<float>();
  const int64_t* labels = outputs[2].GetTensorData<int64_t>();
  const int64_t number = outputs[1].GetTensorTypeAndShapeInfo().GetShape()[1];
  for (int64_t i = 0; i < number; ++i) {
    if (labels[i] < 0 || scores[i] < threshold) continue;  // -1: not used
    const float* box = boxes + 4 * i;
    std::printf("%s %.3f %.1f %.1f %.1f %.1f\n", classes.at(labels[i]).c_str(),
                scores[i], box[0], box[1], box[2], box[3]);
  }
}

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::cerr << "usage: detect MODEL.onnx IMAGE.ppm [THRESHOLD]\n";
    return 2;
  }
  try {
    detect(argv[1], argv[2], argc > 3 ? std::stof(argv[3]) : 0.5f);
  } catch (const std::exception& error) {
    std::cerr << "detect: error: " << error.what() << '\n';
    return 1;
  }
}
