// The Python module cxrsynth.ops._kernels: plain functions over raw pointers. cxrsynth/ops checks shapes, types and devices.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>

#include "cpu/dispatch.h"
#include "demons.h"

namespace py = pybind11;
using Pointer = std::uintptr_t;

namespace {

constexpr int interface = 6;  // raised with every change that cxrsynth/ops/extension.py must know of

template <class T> T* to(Pointer pointer) { return reinterpret_cast<T*>(pointer); }

#ifdef CXR_CUDA_ARCHS
constexpr const char* cuda_architectures = CXR_CUDA_ARCHS;
#define CXR_ON_DEVICE(cuda, cpu) (device ? (cuda) : (cpu))
#else
constexpr const char* cuda_architectures = "";
#define CXR_ON_DEVICE(cuda, cpu) (cpu)
#endif

// `device`: run on the CUDA stream `queue`; otherwise `queue` is the number of threads.
template <class T>
void demons(const cxr::DemonsOptions& options, Pointer moving, Pointer fixed, Pointer initial, Pointer mask, Pointer displacement,
            Pointer mse, Pointer rms, int batch, int height, int width, bool device, Pointer workspace, Pointer queue) {
  const cxr::DemonsImages<T> images{to<T>(moving), to<T>(fixed), to<T>(initial), to<T>(mask), to<T>(displacement),
                                    to<T>(mse), to<T>(rms), batch, height, width};
  CXR_ON_DEVICE(cxr::demons_cuda(images, options, to<void>(workspace), to<void>(queue)), cxr::demons_cpu(images, options, int(queue)));
  (void)device, (void)workspace;
}

template <class T>
void warp(Pointer image, Pointer displacement, Pointer out, int batch, int channels, int height, int width, int mode,
          bool device, Pointer queue) {
  const cxr::WarpImages<T> in{to<T>(image), to<T>(displacement), batch, channels, height, width};
  CXR_ON_DEVICE(cxr::warp_cuda(in, mode, to<T>(out), to<void>(queue)), cxr::warp_cpu(in, mode, to<T>(out), int(queue)));
  (void)device;
}

template <class T>
void warp_backward(Pointer image, Pointer displacement, Pointer grad, Pointer grad_image, Pointer grad_displacement, int batch,
                   int channels, int height, int width, int mode, bool device, Pointer queue) {
  const cxr::WarpImages<T> in{to<T>(image), to<T>(displacement), batch, channels, height, width};
  CXR_ON_DEVICE(
      cxr::warp_backward_cuda(in, mode, to<T>(grad), to<T>(grad_image), to<T>(grad_displacement), to<void>(queue)),
      cxr::warp_backward_cpu(in, mode, to<T>(grad), to<T>(grad_image), to<T>(grad_displacement), int(queue)));
  (void)device;
}

template <class T> void smallest_jacobian(Pointer displacement, Pointer out, int batch, int height, int width, int threads) {
  cxr::smallest_jacobian_cpu(to<T>(displacement), batch, height, width, to<T>(out), threads);
}

cxr::NormBatch norm_batch(Pointer x, Pointer weight, Pointer bias, Pointer shift, Pointer out, int batch, long pixels, int channels,
                          int groups, double eps, bool half) {
  return {to<void>(x), to<float>(weight), to<float>(bias), to<float>(shift), to<void>(out), batch, pixels, channels, groups, eps, half};
}

void norm_silu(const cxr::NormBatch& in, bool device, Pointer workspace, Pointer queue) {
  CXR_ON_DEVICE(cxr::norm_silu_cuda(in, to<void>(workspace), to<void>(queue)), cxr::norm_silu_cpu(in, int(queue)));
  (void)device, (void)workspace;
}

void affine(Pointer moving, Pointer fixed, int size, Pointer maps, Pointer correlation, int starts, int iterations, double settled,
            double min_overlap, double damping, double flat) {
  cxr::affine_cpu({to<double>(moving), to<double>(fixed), size, to<double>(maps), to<double>(correlation), starts, iterations,
                   settled, min_overlap, damping, flat});
}

void box_mean(Pointer in, int height, int width, int radius, int times, Pointer out) {
  cxr::box_mean_cpu(to<double>(in), height, width, radius, times, to<double>(out));
}

void winograd(Pointer image, Pointer bias, Pointer points, int first, int rows, int height, int width, int channels, size_t stride,
              bool forward, int threads) {
  cxr::winograd_cpu({to<float>(image), to<float>(bias), to<float>(points), first, rows, height, width, channels, stride}, forward, threads);
}

template <class T> void define(py::module_& m, const std::string& type) {
  const py::call_guard<py::gil_scoped_release> unlocked;
  m.def(("demons_" + type).c_str(), &demons<T>, unlocked);
  m.def(("warp_" + type).c_str(), &warp<T>, unlocked);
  m.def(("warp_backward_" + type).c_str(), &warp_backward<T>, unlocked);
  m.def(("smallest_jacobian_" + type).c_str(), &smallest_jacobian<T>, unlocked);
#ifdef CXR_CUDA_ARCHS
  m.def(("demons_workspace_" + type).c_str(), &cxr::demons_cuda_workspace<T>);
#endif
}

}  // namespace

PYBIND11_MODULE(_kernels, m) {
  m.attr("interface") = interface;
  m.attr("cuda_architectures") = cuda_architectures;
#ifdef _OPENMP
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
  m.def("compiled_paths", &cxr::compiled_paths);
  m.def("usable_paths", &cxr::usable_paths);
  m.def("current_path", &cxr::current_path);
  m.def("set_path", &cxr::set_path);
  py::class_<cxr::DemonsOptions>(m, "DemonsOptions")
      .def(py::init<>())
      .def_readwrite("iterations", &cxr::DemonsOptions::iterations)
      .def_readwrite("shrink", &cxr::DemonsOptions::shrink)
      .def_readwrite("force", &cxr::DemonsOptions::force)
      .def_readwrite("diffeomorphic", &cxr::DemonsOptions::diffeomorphic)
      .def_readwrite("itk", &cxr::DemonsOptions::itk)
      .def_readwrite("inverse_k", &cxr::DemonsOptions::inverse_k)
      .def_readwrite("squarings", &cxr::DemonsOptions::squarings)
      .def_readwrite("diffusion", &cxr::DemonsOptions::diffusion)
      .def_readwrite("fluid", &cxr::DemonsOptions::fluid)
      .def_readwrite("tolerance", &cxr::DemonsOptions::tolerance);
  py::class_<cxr::NormBatch>(m, "NormBatch").def(py::init(&norm_batch));
  m.def("affine", &affine, py::call_guard<py::gil_scoped_release>());
  m.def("box_mean", &box_mean, py::call_guard<py::gil_scoped_release>());
  m.def("norm_silu", &norm_silu, py::call_guard<py::gil_scoped_release>());
#ifdef CXR_CUDA_ARCHS
  m.def("norm_silu_workspace", &cxr::norm_silu_cuda_workspace);
#endif
  m.def("winograd", &winograd, py::call_guard<py::gil_scoped_release>());
  define<float>(m, "float32");
  define<double>(m, "float64");
}
