// Energy, forces and their spread of one structure, by a package that `gfm-pipeline export --output model.pt2` wrote.
//
//     energy model.pt2 structure.txt
//
// The file of the structure holds the number of atoms, three lattice vectors (all zero without periodicity), and a line
// "Z x y z" per atom, in Angstrom. The package itself says its cutoff and its type of numbers.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <vector>

using Vector = std::array<double, 3>;

struct Structure {
  std::vector<int64_t> z;
  std::vector<Vector> pos;
  std::array<Vector, 3> cell{};
};

struct Edges {  // of each pair within the cutoff, both directions
  std::vector<int64_t> source, target;
  std::vector<double> shift;  // Cartesian, of the image of the target [3 per edge]
};

static Structure read(const char *path) {
  std::ifstream file(path);
  size_t n = 0;
  Structure found;
  file >> n;
  for (Vector &row : found.cell) file >> row[0] >> row[1] >> row[2];
  found.z.resize(n);
  found.pos.resize(n);
  for (size_t i = 0; i < n; ++i) file >> found.z[i] >> found.pos[i][0] >> found.pos[i][1] >> found.pos[i][2];
  if (!file || n == 0) throw std::runtime_error(std::string(path) + " holds no structure.");
  return found;
}

static Vector cross(const Vector &a, const Vector &b) {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}

static double dot(const Vector &a, const Vector &b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// All pairs with all images that can be within the cutoff: for small structures. Atoms must lie in their cell.
static Edges edges_of(const Structure &s, double cutoff) {
  const double volume = std::abs(dot(s.cell[0], cross(s.cell[1], s.cell[2])));
  std::array<int, 3> images{0, 0, 0};
  if (volume > 0)
    for (int k = 0; k < 3; ++k) {
      const Vector normal = cross(s.cell[(k + 1) % 3], s.cell[(k + 2) % 3]);
      images[k] = static_cast<int>(std::ceil(cutoff * std::sqrt(dot(normal, normal)) / volume)) + 1;
    }
  Edges found;
  for (int a = -images[0]; a <= images[0]; ++a)
    for (int b = -images[1]; b <= images[1]; ++b)
      for (int c = -images[2]; c <= images[2]; ++c) {
        Vector shift;
        for (int x = 0; x < 3; ++x) shift[x] = a * s.cell[0][x] + b * s.cell[1][x] + c * s.cell[2][x];
        for (size_t i = 0; i < s.z.size(); ++i)
          for (size_t j = 0; j < s.z.size(); ++j) {
            if (i == j && a == 0 && b == 0 && c == 0) continue;
            Vector d;
            for (int x = 0; x < 3; ++x) d[x] = s.pos[j][x] + shift[x] - s.pos[i][x];
            if (dot(d, d) >= cutoff * cutoff) continue;
            found.source.push_back(static_cast<int64_t>(i));
            found.target.push_back(static_cast<int64_t>(j));
            found.shift.insert(found.shift.end(), shift.begin(), shift.end());
          }
      }
  return found;
}

int main(int argc, char **argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: energy model.pt2 structure.txt\n");
    return 2;
  }
  try {
    const torch::NoGradGuard no_grad;
    const Structure structure = read(argv[2]);
    torch::inductor::AOTIModelPackageLoader model(argv[1]);
    auto about = model.get_metadata();
    const Edges edges = edges_of(structure, std::stod(about.at("cutoff")));
    const auto n = static_cast<int64_t>(structure.z.size()), m = static_cast<int64_t>(edges.source.size());
    const auto real = about.at("dtype") == "float64" ? torch::kFloat64 : torch::kFloat32;
    const auto of = [&](const void *data, std::vector<int64_t> shape, torch::ScalarType type) {
      return torch::from_blob(const_cast<void *>(data), shape, type).clone();
    };
    std::vector<torch::Tensor> inputs{
        of(structure.z.data(), {n}, torch::kInt64),
        of(structure.pos.data(), {n, 3}, torch::kFloat64).to(real),
        of(edges.source.data(), {m}, torch::kInt64),
        of(edges.target.data(), {m}, torch::kInt64),
        of(edges.shift.data(), {m, 3}, torch::kFloat64).to(real),
        of(structure.cell.data(), {3, 3}, torch::kFloat64).to(real),
    };
    const std::vector<torch::Tensor> outputs = model.run(inputs);  // energy, forces, virial, their spreads
    std::printf("energy %.9f eV, spread %.3g eV\n", outputs[0].item<double>(), outputs[3].item<double>());
    const torch::Tensor forces = outputs[1].to(torch::kFloat64).contiguous();
    for (int64_t i = 0; i < n; ++i)
      std::printf("force %.9f %.9f %.9f eV/Angstrom\n", forces[i][0].item<double>(), forces[i][1].item<double>(),
                  forces[i][2].item<double>());
  } catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
