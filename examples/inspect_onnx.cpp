// Inspect images with an exported model, by ONNX Runtime's C API and nothing else.
//
//     g++ -std=c++17 -O2 inspect_onnx.cpp -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime -o inspect_onnx
//     ./inspect_onnx part.onnx image.ppm ...
//
// Images are binary PPM (P6, 8 bits): take what your camera gives in their place. What is done with them, and with the
// results, is docs/export.md; of its framings this has `stretch`.

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

const OrtApi* const api = OrtGetApiBase()->GetApi(ORT_API_VERSION);

void check(OrtStatus* status) {
    if (status == nullptr) return;
    const std::string message = api->GetErrorMessage(status);
    api->ReleaseStatus(status);
    throw std::runtime_error(message);
}

struct Image {
    int height = 0, width = 0;
    std::vector<std::uint8_t> pixels;  // row by row, RGB
};

Image read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    int largest = 0;
    Image image;
    file >> magic >> image.width >> image.height >> largest;
    file.get();
    if (!file || magic != "P6" || largest != 255) throw std::runtime_error(path + ": no binary PPM of 8 bits");
    image.pixels.resize(static_cast<std::size_t>(image.height) * image.width * 3);
    file.read(reinterpret_cast<char*>(image.pixels.data()), static_cast<std::streamsize>(image.pixels.size()));
    if (!file) throw std::runtime_error(path + ": ends too early");
    return image;
}

// Pillow's bilinear filter for 8 bits, along one axis: see "Resizing" in docs/export.md.
Image resized(const Image& image, int wanted, bool rows) {
    const int length = rows ? image.height : image.width;
    if (length == wanted) return image;
    Image result{rows ? wanted : image.height, rows ? image.width : wanted, {}};
    result.pixels.resize(static_cast<std::size_t>(result.height) * result.width * 3);
    const double scale = static_cast<double>(length) / wanted, reach = std::max(scale, 1.0);
    for (int i = 0; i < wanted; ++i) {
        const double centre = (i + 0.5) * scale;
        const int first = std::max(static_cast<int>(centre - reach + 0.5), 0);
        const int last = std::min(static_cast<int>(centre + reach + 0.5), length);
        std::vector<double> triangle;
        double sum = 0;
        for (int j = first; j < last; ++j) {
            triangle.push_back(std::max(0.0, 1 - std::abs((j - centre + 0.5) / reach)));
            sum += triangle.back();
        }
        std::vector<std::int64_t> weights;
        for (double t : triangle) weights.push_back(static_cast<std::int64_t>(0.5 + t * (1 / sum) * (1 << 22)));
        const int lines = rows ? image.width : image.height;
        for (int line = 0; line < lines; ++line) {
            for (int c = 0; c < 3; ++c) {
                std::int64_t total = 1 << 21;
                for (int j = first; j < last; ++j) {
                    const int y = rows ? j : line, x = rows ? line : j;
                    total += weights[j - first] * image.pixels[(static_cast<std::size_t>(y) * image.width + x) * 3 + c];
                }
                const int y = rows ? i : line, x = rows ? line : i;
                const std::int64_t value = std::clamp<std::int64_t>(total >> 22, 0, 255);
                result.pixels[(static_cast<std::size_t>(y) * result.width + x) * 3 + c] =
                    static_cast<std::uint8_t>(value);
            }
        }
    }
    return result;
}

class Model {
  public:
    explicit Model(const std::string& path) {
        check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "inspect", &environment_));
        check(api->CreateSessionOptions(&options_));
        std::ifstream file(path, std::ios::binary);
        if (!file) throw std::runtime_error(path + ": can't be read");
        const std::vector<char> data{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
        check(api->CreateSessionFromArray(environment_, data.data(), data.size(), options_, &session_));
        check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory_));
        threshold = std::strtod(metadata("threshold").c_str(), nullptr);  // in the C locale
        if (std::sscanf(metadata("image_size").c_str(), "%dx%d", &width, &height) != 2 ||
            metadata("framing") != "stretch")
            throw std::runtime_error(path + ": framing is " + metadata("framing") + "; this example has stretch");
    }

    ~Model() {
        api->ReleaseMemoryInfo(memory_);
        api->ReleaseSession(session_);
        api->ReleaseSessionOptions(options_);
        api->ReleaseEnv(environment_);
    }

    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    float score(Image image) const {
        image = resized(resized(image, width, false), height, true);  // the width first
        const std::int64_t shape[] = {1, height, width, 3};
        OrtValue* input = nullptr;
        check(api->CreateTensorWithDataAsOrtValue(memory_, image.pixels.data(), image.pixels.size(), shape, 4,
                                                  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &input));
        const char *given = "image", *wanted = "score";  // "anomaly_map", too, where the verdict is BAD
        OrtValue* output = nullptr;
        check(api->Run(session_, nullptr, &given, &input, 1, &wanted, 1, &output));
        void* values = nullptr;
        check(api->GetTensorMutableData(output, &values));
        const float found = *static_cast<float*>(values);
        api->ReleaseValue(output);
        api->ReleaseValue(input);
        return found;
    }

    double threshold = 0;
    int width = 0, height = 0;

  private:
    std::string metadata(const char* key) const {
        OrtAllocator* allocator = nullptr;
        OrtModelMetadata* all = nullptr;
        char* value = nullptr;
        check(api->GetAllocatorWithDefaultOptions(&allocator));
        check(api->SessionGetModelMetadata(session_, &all));
        check(api->ModelMetadataLookupCustomMetadataMap(all, allocator, key, &value));
        const std::string text = value == nullptr ? "" : value;
        if (value != nullptr) check(api->AllocatorFree(allocator, value));
        api->ReleaseModelMetadata(all);
        return text;
    }

    OrtEnv* environment_ = nullptr;
    OrtSessionOptions* options_ = nullptr;
    OrtSession* session_ = nullptr;
    OrtMemoryInfo* memory_ = nullptr;
};

}  // namespace

int main(int count, char** arguments) {
    if (count < 3) {
        std::cerr << "usage: inspect_onnx MODEL.onnx IMAGE.ppm ...\n";
        return 2;
    }
    try {
        const Model model(arguments[1]);
        bool bad = false;
        for (int i = 2; i < count; ++i) {
            const float score = model.score(read_ppm(arguments[i]));
            bad = bad || !(score <= model.threshold);
            std::printf("%s  %.6g  %.6g  %s\n", score <= model.threshold ? "GOOD" : "BAD", static_cast<double>(score),
                        score / model.threshold, arguments[i]);
        }
        return bad ? 1 : 0;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
        return 2;
    }
}
