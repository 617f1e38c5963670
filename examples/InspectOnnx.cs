// Inspect images with an exported model, by Microsoft.ML.OnnxRuntime and nothing else.
//
//     dotnet new console -o inspect && cp InspectOnnx.cs inspect/Program.cs
//     cd inspect && dotnet add package Microsoft.ML.OnnxRuntime && dotnet run part.onnx image.ppm
//
// Images are binary PPM (P6, 8 bits): take what your camera gives in their place. What is done with them, and with the
// results, is docs/export.md; of its framings this has `stretch`.

using System.Globalization;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

if (args.Length < 2)
{
    Console.Error.WriteLine("usage: inspect MODEL.onnx IMAGE.ppm ...");
    return 2;
}
using var session = new InferenceSession(args[0]);
var about = session.ModelMetadata.CustomMetadataMap;
var threshold = double.Parse(about["threshold"], CultureInfo.InvariantCulture);
var size = about["image_size"].Split('x').Select(int.Parse).ToArray();
if (about["framing"] != "stretch")
{
    Console.Error.WriteLine($"error: framing is {about["framing"]}; this example has stretch");
    return 2;
}
var bad = false;
foreach (var path in args.Skip(1))
{
    var image = Resized(Resized(ReadPpm(path), size[0], rows: false), size[1], rows: true); // the width first
    var tensor = new DenseTensor<byte>(image.Pixels, new[] { 1, image.Height, image.Width, 3 });
    using var results = session.Run(new[] { NamedOnnxValue.CreateFromTensor("image", tensor) }, new[] { "score" });
    var score = results.First().AsTensor<float>()[0];
    bad |= !(score <= threshold);
    Console.WriteLine(FormattableString.Invariant(
        $"{(score <= threshold ? "GOOD" : "BAD")}  {score:g6}  {score / threshold:g6}  {path}"));
}
return bad ? 1 : 0;

static Image ReadPpm(string path)
{
    using var file = new BinaryReader(File.OpenRead(path));
    string Word()
    {
        var word = "";
        for (var c = file.ReadChar(); !char.IsWhiteSpace(c); c = file.ReadChar()) word += c;
        return word;
    }
    if (Word() != "P6") throw new InvalidDataException($"{path}: no binary PPM");
    int width = int.Parse(Word()), height = int.Parse(Word());
    if (Word() != "255") throw new InvalidDataException($"{path}: not of 8 bits");
    return new Image(height, width, file.ReadBytes(height * width * 3));
}

// Pillow's bilinear filter for 8 bits, along one axis: see "Resizing" in docs/export.md.
static Image Resized(Image image, int wanted, bool rows)
{
    var length = rows ? image.Height : image.Width;
    if (length == wanted) return image;
    var (height, width) = rows ? (wanted, image.Width) : (image.Height, wanted);
    var result = new byte[height * width * 3];
    double scale = (double)length / wanted, reach = Math.Max(scale, 1);
    for (var i = 0; i < wanted; i++)
    {
        var centre = (i + 0.5) * scale;
        int first = Math.Max((int)(centre - reach + 0.5), 0), last = Math.Min((int)(centre + reach + 0.5), length);
        var triangle = Enumerable.Range(first, last - first)
            .Select(j => Math.Max(0, 1 - Math.Abs((j - centre + 0.5) / reach))).ToArray();
        var sum = triangle.Sum();
        var weights = triangle.Select(t => (long)(0.5 + t * (1 / sum) * (1 << 22))).ToArray();
        for (var line = 0; line < (rows ? image.Width : image.Height); line++)
            for (var c = 0; c < 3; c++)
            {
                long total = 1 << 21;
                for (var j = first; j < last; j++)
                    total += weights[j - first]
                        * image.Pixels[((rows ? j : line) * image.Width + (rows ? line : j)) * 3 + c];
                result[((rows ? i : line) * width + (rows ? line : i)) * 3 + c]
                    = (byte)Math.Clamp(total >> 22, 0, 255);
            }
    }
    return new Image(height, width, result);
}

record Image(int Height, int Width, byte[] Pixels);
