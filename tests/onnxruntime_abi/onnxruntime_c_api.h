// What `examples/inspect_onnx.cpp` uses of ONNX Runtime's C API, for tests where its own header is not installed.
//
// The library hands out a table of functions whose order never changes; each is at the place that it has there, and
// what lies between is left unnamed. The Python package holds the library, but no header.

#pragma once

#include <cstddef>
#include <cstdint>

#define ORT_API_VERSION 16  // of 1.16: later libraries serve it, too

extern "C" {

struct OrtEnv;
struct OrtStatus;
struct OrtSession;
struct OrtSessionOptions;
struct OrtRunOptions;
struct OrtMemoryInfo;
struct OrtAllocator;
struct OrtModelMetadata;
struct OrtValue;

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_ERROR = 3 };
enum OrtAllocatorType { OrtArenaAllocator = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };
enum ONNXTensorElementDataType { ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2 };

struct OrtApi {
    void* from_0[2];
    const char* (*GetErrorMessage)(const OrtStatus*);                                          // 2
    OrtStatus* (*CreateEnv)(OrtLoggingLevel, const char* name, OrtEnv**);                      // 3
    void* from_4[4];
    OrtStatus* (*CreateSessionFromArray)(const OrtEnv*, const void* data, std::size_t length,  // 8
                                         const OrtSessionOptions*, OrtSession**);
    OrtStatus* (*Run)(OrtSession*, const OrtRunOptions*, const char* const* inputs,  // 9
                      const OrtValue* const* given, std::size_t input_count, const char* const* outputs,
                      std::size_t output_count, OrtValue** found);
    OrtStatus* (*CreateSessionOptions)(OrtSessionOptions**);  // 10
    void* from_11[38];
    OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void* data, std::size_t bytes,  // 49
                                                 const std::int64_t* shape, std::size_t rank,
                                                 ONNXTensorElementDataType, OrtValue**);
    void* from_50[1];
    OrtStatus* (*GetTensorMutableData)(OrtValue*, void**);  // 51
    void* from_52[17];
    OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**);  // 69
    void* from_70[6];
    OrtStatus* (*AllocatorFree)(OrtAllocator*, void*);  // 76
    void* from_77[1];
    OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator**);  // 78
    void* from_79[13];
    void (*ReleaseEnv)(OrtEnv*);                // 92
    void (*ReleaseStatus)(OrtStatus*);          // 93
    void (*ReleaseMemoryInfo)(OrtMemoryInfo*);  // 94
    void (*ReleaseSession)(OrtSession*);        // 95
    void (*ReleaseValue)(OrtValue*);            // 96
    void* from_97[3];
    void (*ReleaseSessionOptions)(OrtSessionOptions*);  // 100
    void* from_101[10];
    OrtStatus* (*SessionGetModelMetadata)(const OrtSession*, OrtModelMetadata**);  // 111
    void* from_112[4];
    OrtStatus* (*ModelMetadataLookupCustomMetadataMap)(const OrtModelMetadata*, OrtAllocator*,  // 116
                                                       const char* key, char** value);
    void* from_117[1];
    void (*ReleaseModelMetadata)(OrtModelMetadata*);  // 118
};

struct OrtApiBase {
    const OrtApi* (*GetApi)(std::uint32_t version);
    const char* (*GetVersionString)();
};

const OrtApiBase* OrtGetApiBase();
}
