// The pyramid and the loop over iterations: only launches, no host synchronisation.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cuda/kernels.cuh"

namespace cxr {
namespace {

template <class T> Taps<T> taps_of(const std::vector<double>& taps) {
  Taps<T> out{};
  out.radius = std::min<int>(int(taps.size()) - 1, max_radius);
  for (int j = 0; j <= out.radius; ++j) out.weight[j] = T(taps[j]);
  return out;
}

// Hands out pieces of the caller's workspace; with no memory it only counts.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}
  template <class T> T* take(size_t n) {
    T* piece = reinterpret_cast<T*>(memory_ + used_);
    used_ += (n * sizeof(T) + 255) / 256 * 256;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

template <class T> class Registration {
 public:
  Registration(const DemonsImages<T>& images, const DemonsOptions& options, void* memory, void* stream)
      : all_(images), options_(options), stream_(stream) {
    Arena arena(memory);
    const size_t size = size_t(images.batch) * images.height * images.width;
    active_ = arena.take<int>(images.batch);
    blocks_ = pixel_grid(images.height, images.width, 1);
    partial_ = arena.take<double>(size_t(images.batch) * blocks_.x * blocks_.y * 3);
    for (T** field : {&u_, &update_, &scratch_}) *field = arena.take<T>(2 * size);
    for (T** image : {&warped_, &moving_, &fixed_, &mask_}) *image = arena.take<T>(size);
    bytes_ = arena.used();
  }

  size_t bytes() const { return bytes_; }

  void run() {
    const int total = options_.total_iterations();
    const long traces = long(all_.batch) * total;
    CXR_LAUNCH(fill<T>, dim3((traces + 255) / 256 + 1), dim3(256), stream_, all_.mse, traces, T(NAN));
    CXR_LAUNCH(fill<T>, dim3((traces + 255) / 256 + 1), dim3(256), stream_, all_.rms, traces, T(NAN));
    int last_h = 0, last_w = 0, first = 0;
    for (size_t i = 0; i < options_.shrink.size(); ++i) {
      h_ = level_size(all_.height, options_.shrink[i]);
      w_ = level_size(all_.width, options_.shrink[i]);
      CXR_LAUNCH(fill<int>, dim3((all_.batch + 255) / 256), dim3(256), stream_, active_, long(all_.batch), 1);
      start_field(i, last_h, last_w);
      const bool full = h_ == all_.height && w_ == all_.width;
      const T* moving = full ? all_.moving : resized_image(all_.moving, moving_);
      const T* fixed = full ? all_.fixed : resized_image(all_.fixed, fixed_);
      const T* mask = full || !all_.mask ? all_.mask : resized_image(all_.mask, mask_);
      run_level(moving, fixed, mask, options_.iterations[i], first);
      first += options_.iterations[i];
      last_h = h_;
      last_w = w_;
    }
    resize(u_, all_.batch * 2, last_h, last_w, all_.displacement, all_.height, all_.width, true);
  }

 private:
  void start_field(size_t level, int last_h, int last_w) {
    if (level == 0 && !all_.initial) {
      const long n = 2L * all_.batch * h_ * w_;
      CXR_LAUNCH(fill<T>, dim3((n + 255) / 256), dim3(256), stream_, u_, n, T(0));
    } else if (level == 0) {
      resize(all_.initial, all_.batch * 2, all_.height, all_.width, u_, h_, w_, true);
    } else {
      resize(u_, all_.batch * 2, last_h, last_w, update_, h_, w_, true);
      std::swap(u_, update_);
    }
  }

  const T* resized_image(const T* image, T* out) {
    resize(image, all_.batch, all_.height, all_.width, out, h_, w_, false);
    return out;
  }

  void resize(const T* in, int planes, int h, int w, T* out, int new_h, int new_w, bool field) {
    const T sx = field ? T(double(new_w) / w) : T(1), sy = field ? T(double(new_h) / h) : T(1);
    CXR_LAUNCH(resize_columns<T>, pixel_grid(new_h, w, planes), pixel_block(), stream_, in, h, w, new_h, scratch_);
    CXR_LAUNCH(resize_rows<T>, pixel_grid(new_h, new_w, planes), pixel_block(), stream_, scratch_, new_h, w, new_w, sx, sy, out);
  }

  // out = base + field smoothed; `out` may be `field` or `base`.
  void smooth(const T* field, const std::vector<double>& kernel, const T* base, T* out) {
    const Taps<T> taps = taps_of<T>(kernel);
    const dim3 grid = pixel_grid(h_, w_, all_.batch * 2);
    CXR_LAUNCH(smooth_axis<T>, grid, pixel_block(), stream_, field, nullptr, active_, h_, w_, false, taps, scratch_);
    CXR_LAUNCH(smooth_axis<T>, grid, pixel_block(), stream_, scratch_, base, active_, h_, w_, true, taps, out);
  }

  void run_level(const T* moving, const T* fixed, const T* mask, int count, int first) {
    const bool before = options_.itk && options_.force == thirion;  // ITK's classic Demons smooths before each iteration
    const dim3 images = pixel_grid(h_, w_, all_.batch), fields = pixel_grid(h_, w_, all_.batch * 2);
    for (int i = 0; i < count; ++i) {
      if (before && !options_.diffusion.empty()) smooth(u_, options_.diffusion, nullptr, u_);
      CXR_LAUNCH(warp_by_field<T>, images, pixel_block(), stream_, moving, u_, active_, h_, w_, options_.itk, warped_);
      force(fixed, mask, images);
      if (!options_.fluid.empty()) smooth(update_, options_.fluid, nullptr, update_);
      if (options_.diffeomorphic) {
        diffeomorphic_update(fields);
      } else {
        CXR_LAUNCH(scale_add<T>, fields, pixel_block(), stream_, update_, T(1), u_, active_, h_, w_, u_);
      }
      if (!before && !options_.diffusion.empty()) smooth(u_, options_.diffusion, nullptr, u_);
      CXR_LAUNCH(finish_iteration<T>, dim3(all_.batch), dim3(32), stream_, partial_, int(images.x * images.y), first + i,
                 options_.total_iterations(), options_.tolerance, active_, all_.mse, all_.rms);
    }
  }

  void force(const T* fixed, const T* mask, dim3 grid) {
    const auto kernel = options_.force == two_force ? force_field<T, two_force>
                        : options_.force == esm     ? force_field<T, esm>
                                                    : force_field<T, thirion>;
    CXR_LAUNCH(kernel, grid, pixel_block(), stream_, fixed, warped_, mask, active_, h_, w_, options_.itk,
               T(options_.inverse_k), update_, partial_);
  }

  // v = exp(du) by scaling and squaring, then u <- v + u o (Id + v).
  void diffeomorphic_update(dim3 grid) {
    const T scale = T(1) / T(1 << options_.squarings);
    CXR_LAUNCH(scale_add<T>, grid, pixel_block(), stream_, update_, scale, nullptr, active_, h_, w_, update_);
    for (int i = 0; i < options_.squarings; ++i) {
      compose(update_, update_, scratch_, grid);
      copy(scratch_, update_, grid);
    }
    compose(u_, update_, scratch_, grid);
    copy(scratch_, u_, grid);
  }

  void compose(const T* u, const T* v, T* out, dim3 grid) {
    CXR_LAUNCH(compose_fields<T>, grid, pixel_block(), stream_, u, v, active_, h_, w_, out);
  }

  // A copy, not a swap of pointers: an item that has stopped must keep its field.
  void copy(const T* from, T* to, dim3 grid) {
    CXR_LAUNCH(scale_add<T>, grid, pixel_block(), stream_, from, T(1), nullptr, active_, h_, w_, to);
  }

  DemonsImages<T> all_;
  const DemonsOptions& options_;
  void* stream_;
  int* active_;
  double* partial_;
  T *u_, *update_, *scratch_, *warped_, *moving_, *fixed_, *mask_;
  dim3 blocks_;
  size_t bytes_;
  int h_ = 0, w_ = 0;
};

}  // namespace

template <class T> size_t demons_cuda_workspace(int batch, int height, int width) {
  return Registration<T>({nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, batch, height, width}, {}, nullptr, nullptr)
      .bytes();
}

template <class T>
void demons_cuda(const DemonsImages<T>& images, const DemonsOptions& options, void* workspace, void* stream) {
  Registration<T>(images, options, workspace, stream).run();
}

#define CXR_INSTANTIATE(T)                                                   \
  template size_t demons_cuda_workspace<T>(int, int, int);                   \
  template void demons_cuda<T>(const DemonsImages<T>&, const DemonsOptions&, void*, void*);
CXR_INSTANTIATE(float)
CXR_INSTANTIATE(double)

}  // namespace cxr
